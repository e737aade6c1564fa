"""Load weights of a whole network, of the published network with another head, or of a featurizer only.

Keras's formats are supported (`.weights.h5`, `.keras`, and the older `.h5`). Layers match by order, and nothing is unpickled.
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
    """Load `path` into `model`; if only the head differs, load the featurizer's weights and leave the head unchanged.

    Args:
        model: a Keras model; its last layer is the head if `has_head`.
        path: the weights file.
        has_head: the file may also hold the weights of the model without its last layer.
        published: builds the network with its published number of classes, if `model` has another.

    Raises:
        NotFoundError: there is no such file.
        ModelError: the file is not a weights file, or holds weights of another network.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such weights file")
    if not path.name.endswith(_SUFFIXES):
        raise ModelError(f"{path}: a weights file must be one of {', '.join(_SUFFIXES)}, as Keras writes them")
    error = _try_load(model, path)
    if error is None:
        return
    if published is not None:
        source = published()
        if _try_load(source, path) is None:
            _copy_featurizer(source, model)
            return
    if has_head and _try_load(_without_last_layer(model), path) is None:
        return
    raise ModelError(f"{path}: its weights must be those of {model.name} or of its featurizer: {one_line(error)}")


def _try_load(model: Any, path: Path) -> Exception | None:
    """Load weights; return Keras's error, or None.

    Keras only warns if the file has no weights for a layer, and leaves them random. Here that is an error.
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
    ) as error:
        return error
    return None


def _without_last_layer(model: Any) -> Any:
    import keras

    return keras.Model(model.inputs, model.layers[-1].input, name=model.name)


def _copy_featurizer(source: Any, target: Any) -> None:
    for layer, copy in zip(source.layers[:-1], target.layers[:-1], strict=True):
        copy.set_weights(layer.get_weights())
