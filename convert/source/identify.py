"""Identify the format of a model from its content, never from its file name."""

from __future__ import annotations

import enum
import re
import zipfile
from pathlib import Path

from convert.from_keras.legacy import MAGIC
from convert.source.foreign_formats import foreign_directory, foreign_file, foreign_torch_archive, is_old_torch_file, torch_pickle
from edgewright.errors import ModelError

_KERAS_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
_TORCH_PROGRAMS = ("/models/model.json", "serialized_exported_program.json")
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\x00\x00", b"\x04\x22\x4d\x18")
"""gzip, bzip2, xz, lzma and lz4: the compressions of joblib besides zlib."""
_ZLIB = 0x78
_SUPPORTED = (
    "supported are Keras (.keras, .h5), scikit-learn (skops or pickle), LightGBM (text), XGBoost (JSON, UBJSON), "
    "CatBoost (.cbm), TensorFlow Lite, ONNX and PyTorch (torch.export, TorchScript) files, TensorFlow SavedModel directories and "
    "frozen graphs"
)

_CATBOOST = b"CBM1"
_TFLITE = b"TFL3"
"""Bytes 4 to 8 of every TensorFlow Lite file."""

_MAX_IDENTIFIED_FILES = 20
"""Files of a directory that are identified for an error message."""

_FIRST_NODE = re.compile(
    rb"\n[\x04-\xff][\x80-\xff]{0,8}[\x00-\x7f]?"  # field 1 and its length
    rb"\n[\x01-\x7f][A-Za-z0-9.][\w.\-/>]{0,126}"  # inside it, field 1: the node's name
    rb"\x12[\x02-\x7f][A-Z]\w+",  # and field 2: its operator
    re.DOTALL,
)
"""Start of a TensorFlow GraphDef: its first node."""


class SourceKind(enum.StrEnum):
    """Formats of source models."""

    KERAS = "keras"
    SKLEARN = "sklearn"
    PICKLE = "sklearn-pickle"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    CATBOOST = "catboost"
    SAVED_MODEL = "tensorflow-saved-model"
    TORCH = "torch"
    TORCHSCRIPT = "torchscript"
    FROZEN_GRAPH = "tensorflow-frozen-graph"
    TFLITE = "tensorflow-lite"
    ONNX = "onnx"


def identify(path: Path) -> SourceKind:
    """Return the kind of the model at `path`.

    Raises:
        ModelError: the path does not exist, or is not a complete model of a supported format.
    """
    if path.is_dir():
        return _identify_directory(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; {_SUPPORTED}")
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise ModelError(f"{path} must be a model, but it is empty; {_SUPPORTED}")
    if start.startswith(b"PK"):
        return _identify_archive(path)
    if is_old_torch_file(start):
        raise ModelError(f"{path} is {torch_pickle(path.read_bytes())}")
    kind = _identify_start(start)
    if kind is not None:
        return kind
    foreign = foreign_file(path, start)
    if foreign is not None:
        raise ModelError(f"{path} is {foreign}")
    if start[0] == 0x08:  # the first field of an ONNX ModelProto: its IR version
        return _identify_protobuf(path)
    raise ModelError(f"{path} is not a model of a known format; {_SUPPORTED}")


def _identify_start(start: bytes) -> SourceKind | None:
    """Return the kind that the first bytes of a file decide, or None."""
    if start.startswith(MAGIC):
        return SourceKind.KERAS
    if start.startswith(_PICKLE) or start.startswith(_COMPRESSED) or _is_zlib(start):
        return SourceKind.PICKLE
    if start.startswith((b"tree\n", b"tree\r\n")):
        return SourceKind.LIGHTGBM
    if start.startswith(b"{") and b"learner" in start:  # the same key opens both forms of the file
        return SourceKind.XGBOOST
    if start.startswith(_CATBOOST):
        return SourceKind.CATBOOST
    if start[4:8] == _TFLITE:
        return SourceKind.TFLITE
    return SourceKind.FROZEN_GRAPH if _FIRST_NODE.match(start) else None


def _is_zlib(start: bytes) -> bool:
    """Return True for the header of a zlib stream of any level: its two bytes are a multiple of 31 (RFC 1950)."""
    return len(start) > 1 and start[0] == _ZLIB and int.from_bytes(start[:2]) % 31 == 0


def _identify_directory(path: Path) -> SourceKind:
    if (path / "saved_model.pb").is_file():
        return SourceKind.SAVED_MODEL
    models = [file.name for file in sorted(path.iterdir())[:_MAX_IDENTIFIED_FILES] if file.is_file() and _is_model(file)]
    if models:
        raise ModelError(f"{path} must be one model, but it is a directory with {', '.join(models)}: convert one of them")
    foreign = foreign_directory(path)
    if foreign is not None:
        raise ModelError(f"{path} is {foreign}")
    raise ModelError(f"{path} is a directory without a model; {_SUPPORTED}")


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
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} must be a complete archive, but it is truncated or damaged: copy it again") from error
    if damaged:
        raise ModelError(f"{path} must be a complete archive, but {damaged} in it is damaged: copy it again")
    signatures = {
        SourceKind.KERAS: members >= _KERAS_MEMBERS,
        SourceKind.SKLEARN: "schema.json" in members,
        SourceKind.TORCH: any(name.endswith(_TORCH_PROGRAMS) for name in members),
        SourceKind.TORCHSCRIPT: any(name.endswith("/constants.pkl") for name in members)
        and any("/code/" in name for name in members),
    }
    kinds = [kind for kind, matches in signatures.items() if matches]
    if len(kinds) > 1:
        raise ModelError(f"{path} must be one model, but it holds those of {' and '.join(kinds)}: keep one of them")
    if kinds:
        return kinds[0]
    foreign = foreign_torch_archive(path)
    if foreign is not None:
        raise ModelError(f"{path} is {foreign}")
    raise ModelError(f"{path} is a zip archive, but it does not hold a model; {_SUPPORTED}")


def _identify_protobuf(path: Path) -> SourceKind:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, UnicodeDecodeError) as error:  # UnicodeDecodeError: from protobuf's Python parser, for a damaged name
        raise ModelError(f"{path} must be a complete ONNX file, but it is truncated or damaged: copy it again") from error
    if not model.HasField("graph"):
        raise ModelError(f"{path} is not a model of a known format; {_SUPPORTED}")
    return SourceKind.ONNX
