"""Find the framework of a model file or folder by its name and first bytes."""

from __future__ import annotations

import enum
from pathlib import Path, PurePath

from edgewright.errors import BadInputError


class Framework(enum.StrEnum):
    """Frameworks whose model files are served without a script."""

    ONNX = "onnx"
    SCIKIT_LEARN = "sklearn"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    KERAS = "keras"
    TENSORFLOW = "tensorflow"


_SUFFIXES = {
    ".onnx": Framework.ONNX,
    ".pkl": Framework.SCIKIT_LEARN,
    ".pickle": Framework.SCIKIT_LEARN,
    ".joblib": Framework.SCIKIT_LEARN,
    ".skops": Framework.SCIKIT_LEARN,
    ".keras": Framework.KERAS,
    ".h5": Framework.KERAS,
    ".hdf5": Framework.KERAS,
    ".ubj": Framework.XGBOOST,
    ".json": Framework.XGBOOST,
    ".txt": Framework.LIGHTGBM,
}
_PICKLES = (".pkl", ".pickle", ".joblib")
_STARTS = {".json": (b"{",), ".txt": (b"tree",), ".h5": (b"\x89HDF",), ".hdf5": (b"\x89HDF",), ".keras": (b"PK\x03\x04",)}
"""First bytes of the formats whose suffix other files have too, or that fail in an unclear way."""
SAVED_MODEL = "saved_model.pb"
_OTHER_FOLDERS = ("variant.json", "build.json", "oci-layout")
"""Files of a variant, a build directory and a package, which may hold ONNX files as well."""


def framework_of(path: Path) -> Framework | None:
    """Return the framework of a model file, or of a SavedModel folder; None for anything else.

    Raises:
        BadInputError: the suffix is that of a model, but there is no such file, or its content is not one.
    """
    if path.is_dir():
        return Framework.TENSORFLOW if (path / SAVED_MODEL).is_file() else None
    framework = _SUFFIXES.get(path.suffix.lower())
    if framework is not None and not path.is_file():
        raise BadInputError(f"{path}: no such file; it must be a model of {framework}, as its suffix says")
    starts = _STARTS.get(path.suffix.lower())
    if framework is None or starts is None:
        return framework
    with path.open("rb") as stream:
        if not stream.read(16).lstrip().startswith(starts):
            raise BadInputError(f"{path} must be a model of {framework}, as its suffix says, but its first bytes are not one's")
    return framework


def check_trusted(path: PurePath, *, trust: bool) -> None:
    """Refuse a pickle without trust, before a worker process starts; only the name is looked at.

    Raises:
        BadInputError: the file is a pickle, which can run any code.
    """
    if path.suffix.lower() in _PICKLES and not trust:
        text = f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, or use skops"
        raise BadInputError(text)


def model_in(path: Path) -> Path:
    """Return the one model file in a folder, as a registered model of several files has it; anything else as it is."""
    if not path.is_dir() or any((path / name).exists() for name in (SAVED_MODEL, *_OTHER_FOLDERS)):
        return path
    found = [each for each in sorted(path.iterdir()) if _is_model(each)]
    return found[0] if len(found) == 1 else path


def _is_model(path: Path) -> bool:
    try:
        return framework_of(path) is not None
    except BadInputError:  # a text or JSON file that is no model
        return False
