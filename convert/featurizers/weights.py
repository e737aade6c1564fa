"""Weights from a file: those of the whole network, of the published one with another head, or of the featurizer alone.

Reads what Keras writes (`.weights.h5`, `.keras`, and the older `.h5`), by layers in their order; nothing is unpickled.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewright.errors import ModelError, NotFoundError, one_line

_SUFFIXES = (".weights.h5", ".keras", ".h5", ".hdf5")


def load_weights(model: Any, path: Path, *, has_head: bool, published: Callable[[], Any] | None = None) -> None:
    """Load `path` into `model`; where only the head differs, load the featurizer's and leave the head as it is.

    Args:
        model: a Keras model whose last layer is the head, when `has_head`.
        path: the weights file.
        has_head: whether the file may also be of the model without its last layer.
        published: builds the network with its published number of classes, when `model` has another.

    Raises:
        NotFoundError: there is no such file.
        ModelError: it is no weights file, or its weights are of another network.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such weights file")
    if not path.name.endswith(_SUFFIXES):
        raise ModelError(f"{path}: a weights file must be one of {', '.join(_SUFFIXES)}, as Keras writes them")
    failure = _try(model, path)
    if failure is None:
        return
    if published is not None:
        source = published()
        if _try(source, path) is None:
            _copy_featurizer(source, model)
            return
    if has_head and _try(_without_last_layer(model), path) is None:
        return
    raise ModelError(f"{path}: its weights must be those of {model.name} or of its featurizer: {one_line(failure)}")


def _try(model: Any, path: Path) -> Exception | None:
    """Load and return None, or return what Keras said; it raises whatever the file's reader raises.

    Keras only warns when it finds nothing for a layer and leaves it random: here that is a failure too.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(str(path))
    except (
        UserWarning,
        ValueError,
        KeyError,
        OSError,
        TypeError,
        AttributeError,
        IndexError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as wrong:
        return wrong
    return None


def _without_last_layer(model: Any) -> Any:
    import keras

    return keras.Model(model.inputs, model.layers[-1].input, name=model.name)


def _copy_featurizer(source: Any, target: Any) -> None:
    for have, want in zip(source.layers[:-1], target.layers[:-1], strict=True):
        want.set_weights(have.get_weights())
