"""Recognize models of formats that are not converted, from their content, so that a refusal names the format and the way out."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

_ORT = (
    "an ONNX Runtime file (.ort), whose graph is already rewritten for that runtime and cannot be restored: "
    "convert the ONNX file that it was made from"
)
_GGUF = (
    "a GGUF file, which holds the weights of a language model for llama.cpp and no graph: convert the model that it was made from"
)
_SAFETENSORS = (
    "a safetensors file, which holds weights and no graph: load it in the library that defines the network, and save that with "
    "torch.export.save or as ONNX (for a Hugging Face model: optimum-cli export onnx --model FOLDER OUTPUT)"
)
_TFJS_LAYERS = (
    "a TensorFlow.js layers model: convert the Keras model that it was made from, or make a Keras file of it with "
    "tensorflowjs_converter --input_format=tfjs_layers_model --output_format=keras"
)
_TFJS_GRAPH = "a TensorFlow.js graph model: convert the SavedModel or Keras model that it was made from"
_CORE_ML = "a Core ML model, from which no other format can be made: convert the model that it was made from"
_PADDLE = "a PaddlePaddle model: make an ONNX file of it with paddle2onnx, and convert that"
_OPENVINO = "an OpenVINO model (IR), from which no other format can be made: convert the model that it was made from"

_EXECUTORCH = (
    "an ExecuTorch program (.pte), whose graph is already lowered for that runtime: convert the model that it was made from"
)
_SAVE_TORCH = (
    "save it with torch.export.save(torch.export.export(module, example_inputs), 'model.pt2'), or with "
    "torch.jit.save(torch.jit.trace(module, example_inputs), 'model.pt'), and convert that"
)
_TORCH_WEIGHTS = (
    f"a PyTorch file of weights without a network: build the network, load them into it with load_state_dict, {_SAVE_TORCH}"
)
_TORCH_MODULE = (
    f"a PyTorch file of a pickled module, which is of no use without the code of its classes: open it with torch.load where that "
    f"code is installed, {_SAVE_TORCH}"
)
_TORCH_COMPILED = "a package of AOTInductor, which holds machine code and no graph: convert the model that it was made from"

_SAFETENSORS_START = re.compile(rb'.{6}\x00\x00\s*\{\s*"', re.DOTALL)
"""Length of the header, which is below 2**48, and the start of the header in JSON."""
_PADDLE_START = re.compile(rb"\n[\x80-\xff]*[\x00-\x7f]\x08\x00\x10", re.DOTALL)
"""First block of a ProgramDesc: its index 0, and the index of its parent."""
_PADDLE_MEMBERS = ("*.pdmodel", "*.pdiparams")
_CORE_ML_TYPES = range(200, 4000)
"""Numbers of the fields of a Core ML `Model` that hold the model itself; an ONNX file has none above 26."""
_CLASS = re.compile(rb"c([A-Za-z_][\w.]*\n[A-Za-z_][\w.]*)\n")
"""Opcode GLOBAL of a pickle of protocol 2: a module and a name in it."""
_WEIGHTS = (
    "torch._utils",
    "torch\n",
    "torch.storage",
    "torch.nn.parameter",
    "torch.serialization",
    "collections",
    "numpy",
    "_codecs",
    "builtins",
)
"""Modules of what weights consist of."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def foreign_file(path: Path, start: bytes) -> str | None:
    """Return what a file of another format is and what to do with it, or None if it is not recognized.

    Args:
        path: the file.
        start: its first 512 bytes.
    """
    if start[4:8] == b"ORTM":
        return _ORT
    if start[4:6] == b"ET" and start[6:8].isdigit():
        return _EXECUTORCH
    if start.startswith(b"GGUF"):
        return _GGUF
    if _SAFETENSORS_START.match(start):
        return _SAFETENSORS
    if start.lstrip().startswith(b"{"):
        return _foreign_json(start)
    if start.lstrip().startswith((b"<?xml", b"<net")) and b"<net" in start:
        return _OPENVINO
    if _PADDLE_START.match(start) or path.suffix == ".pdiparams":
        return _PADDLE
    if start[:1] == b"\x08" and any(number in _CORE_ML_TYPES for number in _fields(path.read_bytes())):
        return _CORE_ML
    return None


def foreign_torch_archive(path: Path) -> str | None:
    """Return what a zip archive of PyTorch without a graph is and what to do with it, or None if it is no such archive."""
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        pickle = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if any("aotinductor/" in name for name in members):
            return _TORCH_COMPILED
        return None if pickle is None else torch_pickle(archive.read(pickle))


def is_old_torch_file(start: bytes) -> bool:
    """Return True for the first bytes of a file that PyTorch wrote before version 1.6: the pickle of its magic number."""
    return start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def torch_pickle(content: bytes) -> str:
    """Return what the pickle of a file of PyTorch is and what to do with it."""
    return _TORCH_MODULE if _torch_classes(content) else _TORCH_WEIGHTS


def _torch_classes(content: bytes) -> set[str]:
    """Return the classes in a file of PyTorch that hold no weights; nothing is unpickled."""
    names = {match[1].decode() for match in _CLASS.finditer(content)}
    return {name for name in names if not name.startswith(_WEIGHTS)}


def foreign_directory(path: Path) -> str | None:
    """Return what a directory of another format is and what to do with it, or None if it is not recognized."""
    if (path / "Data" / "com.apple.CoreML").is_dir() or (path / "coremldata.bin").is_file():
        return _CORE_ML
    model = path / "model.json"
    if model.is_file():
        with model.open("rb") as stream:
            found = _foreign_json(stream.read(512))
        if found is not None:
            return found
    if any(next(path.glob(pattern), None) for pattern in _PADDLE_MEMBERS):
        return _PADDLE
    return _SAFETENSORS if next(path.glob("*.safetensors"), None) else None


def _foreign_json(start: bytes) -> str | None:
    if b'"layers-model"' in start or b'"modelTopology"' in start or b'"graph-model"' in start:
        return _TFJS_GRAPH if b'"graph-model"' in start or b'"node"' in start else _TFJS_LAYERS
    return _PADDLE if b'"pir"' in start else None


def _fields(content: bytes) -> Iterator[int]:
    """Yield the numbers of the outer fields of a protobuf message, up to the first damaged one."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire_type = key >> 3, key & 7
        yield number
        if wire_type == _VARINT:
            _, at = _varint(content, at)
        elif wire_type == _BYTES:
            length, at = _varint(content, at)
            at += length
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        else:
            return


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content):
        value |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 0x80:
            break
    return value, at
