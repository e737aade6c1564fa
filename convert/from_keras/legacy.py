"""Legacy Keras files (HDF5): models saved as `.h5`, also by Keras 2, some of whose settings Keras 3 rejects or reads differently.

Settings that Keras 3 lacks are removed if they have the value of its fixed behaviour (`groups: 1` on a depthwise convolution). A
setting that would change the model is rejected by name.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import ModelError

MAGIC = b"\x89HDF\r\n\x1a\n"

_DROPPED: dict[str, tuple[Any, ...]] = {
    "groups": (1,),
    "renorm": (False, None),
    "virtual_batch_size": (None,),
    "fused": (True, False, None),
    "ragged": (False,),
    "sparse": (False,),
    "input_dim": (None,),
    "dim_ordering": ("tf",),
}
"""Settings that Keras 3 lacks, with the values that make no difference."""

_CHANGED_MEANING = {"hard_sigmoid": "is clip(x / 5 + 0.5) in Keras 2 and clip(x / 6 + 0.5) in Keras 3"}


def is_legacy(path: Path) -> bool:
    """Return whether a file is HDF5."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_legacy_config(path: Path) -> dict[str, Any]:
    """Return the model's configuration.

    Raises:
        ModelError: the file is truncated, or holds weights only.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            has_weights = "model_weights" in file
    except OSError as error:
        raise ModelError(f"{path} must be a complete HDF5 file, but it is truncated or damaged: copy it again") from error
    if text is None or not has_weights:
        raise ModelError(
            f"{path} is an HDF5 file, but it does not hold a Keras model; save the whole model, not only its weights"
        )
    config: dict[str, Any] = json.loads(text)
    return config


@contextlib.contextmanager
def modernized(path: Path) -> Iterator[Path]:
    """Yield a file that Keras 3 loads: `path` itself, or a copy without the settings that Keras 3 lacks."""
    import h5py

    config = read_legacy_config(path)
    version = _version(path)
    if version.startswith("3") or not _modernize(config, path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        copy = Path(folder) / "model.h5"
        shutil.copyfile(path, copy)
        copy.chmod(0o600)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        yield copy


def _version(path: Path) -> str:
    import h5py

    with h5py.File(path, "r") as file:
        return str(file.attrs.get("keras_version", "2"))


def _modernize(config: dict[str, Any], path: Path) -> bool:
    """Remove obsolete settings of every layer, in place; return whether there were any."""
    changed = False
    for entry in config.get("config", {}).get("layers", ()):
        settings = entry.get("config", {})
        _reject_changed_meaning(entry, path)
        for name in sorted(set(settings) & set(_DROPPED) - _arguments_of(entry["class_name"])):
            if settings[name] not in _DROPPED[name]:
                raise ModelError(
                    f"{path}: layer {settings.get('name', '?')!r} ({entry['class_name']}) has {name}={settings[name]!r}, "
                    "which Keras 3 does not support: convert the model with the Keras that trained it to ONNX, and convert that"
                )
            del settings[name]
            changed = True
        changed = _modernize(entry, path) or changed
    return changed


def _reject_changed_meaning(entry: dict[str, Any], path: Path) -> None:
    settings = entry.get("config", {})
    for name in ("activation", "recurrent_activation"):
        if settings.get(name) in _CHANGED_MEANING:
            function = settings[name]
            raise ModelError(
                f"{path}: layer {settings.get('name', '?')!r} uses {function}, which {_CHANGED_MEANING[function]}: "
                "convert the model with the Keras that trained it to ONNX, and convert that"
            )


def _arguments_of(class_name: str) -> set[str]:
    """Return the argument names of a Keras 3 layer; for an unknown class, which Keras itself rejects, all obsolete settings."""
    import inspect

    import keras

    layer_class = getattr(keras.layers, class_name, None)
    return set(_DROPPED) if layer_class is None else set(inspect.signature(layer_class.__init__).parameters)
