"""Which reader a model needs, told by what is in it and never by its name."""

from __future__ import annotations

import enum
import re
import zipfile
from pathlib import Path

from convert.from_keras.legacy import MAGIC
from edgewright.errors import ModelError

_KERAS_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
_TORCH_PROGRAMS = ("/models/model.json", "serialized_exported_program.json")
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"x\x9c": "zlib", b"\x04\x22\x4d\x18": "lz4"}
_READ = (
    "readable are Keras (.keras, .h5), scikit-learn (skops or pickle), LightGBM (text), XGBoost (JSON, UBJSON) "
    "ONNX and PyTorch (torch.export) files, TensorFlow SavedModel directories and frozen graphs"
)

_MOST_LOOKED_AT = 20
"""Files in a directory that is no model itself."""

_FIRST_NODE = re.compile(
    rb"\n[\x04-\xff][\x80-\xff]{0,8}[\x00-\x7f]?"  # field 1 and its length
    rb"\n[\x01-\x7f][A-Za-z0-9.][\w.\-/>]{0,126}"  # in it, field 1: the node's name
    rb"\x12[\x02-\x7f][A-Z]\w+",  # and field 2: its operator
    re.DOTALL,
)
"""How a TensorFlow GraphDef begins: with a node."""


class SourceKind(enum.StrEnum):
    """The kinds of model that can be read."""

    KERAS = "keras"
    SKLEARN = "sklearn"
    PICKLE = "sklearn-pickle"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    SAVED_MODEL = "tensorflow-saved-model"
    TORCH = "torch"
    FROZEN_GRAPH = "tensorflow-frozen-graph"
    ONNX = "onnx"


def identify(path: Path) -> SourceKind:
    """Return the kind of the model at `path`.

    Raises:
        ModelError: nothing is there, it is no model, it is cut short, or no reader knows it.
    """
    if path.is_dir():
        return _identify_directory(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; {_READ}")
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise ModelError(f"{path} must be a model, but it is empty; {_READ}")
    if start.startswith(b"PK"):
        return _identify_archive(path)
    if start.startswith(MAGIC):
        return SourceKind.KERAS
    if start.startswith(_PICKLE) or any(start.startswith(magic) for magic in _COMPRESSED):
        return SourceKind.PICKLE
    if start.startswith((b"tree\n", b"tree\r\n")):
        return SourceKind.LIGHTGBM
    if start.startswith(b"{") and b"learner" in start:  # the same key opens both forms of the file
        return SourceKind.XGBOOST
    if _FIRST_NODE.match(start):
        return SourceKind.FROZEN_GRAPH
    if start[0] == 0x08:  # the first field of an ONNX ModelProto: its IR version
        return _identify_protobuf(path)
    raise ModelError(f"{path} is no model that can be read; {_READ}")


def _identify_directory(path: Path) -> SourceKind:
    if (path / "saved_model.pb").is_file():
        return SourceKind.SAVED_MODEL
    models = [file.name for file in sorted(path.iterdir())[:_MOST_LOOKED_AT] if file.is_file() and _is_model(file)]
    if models:
        raise ModelError(f"{path} must be one model, but it is a directory with {', '.join(models)}: convert one of them")
    raise _not_read(path, "a directory")


def _is_model(path: Path) -> bool:
    try:
        identify(path)
    except ModelError:
        return False
    return True


def _identify_archive(path: Path) -> SourceKind:
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            damaged = archive.testzip()
    except zipfile.BadZipFile as wrong:
        raise ModelError(f"{path} must be a whole archive, but it is cut short or damaged: copy it again") from wrong
    if damaged:
        raise ModelError(f"{path} must be a whole archive, but {damaged} in it is damaged: copy it again")
    signs = {
        SourceKind.KERAS: members >= _KERAS_MEMBERS,
        SourceKind.SKLEARN: "schema.json" in members,
        SourceKind.TORCH: any(name.endswith(_TORCH_PROGRAMS) for name in members),
    }
    kinds = [kind for kind, shown in signs.items() if shown]
    if len(kinds) > 1:
        raise ModelError(f"{path} must be one model, but it holds those of {' and '.join(kinds)}: keep one of them")
    if kinds:
        return kinds[0]
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in members):
        raise ModelError(
            f"{path} is a PyTorch file without a graph, which cannot be read; save it with torch.export.save, or as ONNX"
        )
    raise ModelError(f"{path} is a zip archive, but it holds no model; {_READ}")


def _identify_protobuf(path: Path) -> SourceKind:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, UnicodeDecodeError) as wrong:  # the second one of protobuf's parser in Python, for a damaged name
        raise ModelError(f"{path} must be a whole ONNX file, but it is cut short or damaged: copy it again") from wrong
    if not model.HasField("graph"):
        raise ModelError(f"{path} is no model that can be read; {_READ}")
    return SourceKind.ONNX


def _not_read(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is {what}, which cannot be read yet; {_READ}")
