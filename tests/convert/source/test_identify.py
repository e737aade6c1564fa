"""Formats are identified by content, and other files are rejected in one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import joblib
import onnx
import pytest

from convert.source.identify import SourceKind, identify
from edgewright.errors import ModelError
from tests.support.convert_networks import keras_file

CUT = "it is truncated or damaged: copy it again"
SUPPORTED = (
    "supported are Keras (.keras, .h5), scikit-learn (skops or pickle), LightGBM (text), XGBoost (JSON, UBJSON), "
    "CatBoost (.cbm), TensorFlow Lite, ONNX and PyTorch (torch.export, TorchScript) files, TensorFlow SavedModel directories and "
    "frozen graphs"
)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_keras_file_is_identified_under_any_name(tmp_path: Path) -> None:
    assert identify(written(tmp_path / "model.zip", keras_file().read_bytes())) is SourceKind.KERAS


def test_a_pickle_is_identified_by_its_first_bytes(tmp_path: Path) -> None:
    assert identify(written(tmp_path / "model.keras", pickle.dumps([1, 2]))) is SourceKind.PICKLE


@pytest.mark.parametrize("method", ["gzip", "bz2", "lzma", "xz"])
def test_a_compressed_pickle_of_joblib_is_identified(tmp_path: Path, method: str) -> None:
    joblib.dump([1, 2], tmp_path / "model", compress=(method, 3))
    assert identify(tmp_path / "model") is SourceKind.PICKLE


@pytest.mark.parametrize("level", range(1, 10))
def test_a_pickle_that_joblib_compresses_with_zlib_is_identified_at_every_level(tmp_path: Path, level: int) -> None:
    joblib.dump([1, 2], tmp_path / "model", compress=level)
    assert identify(tmp_path / "model") is SourceKind.PICKLE


def test_text_that_begins_with_x_is_no_compressed_pickle(tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "table", b"x,y\n1,2\n")).startswith(f"{tmp_path / 'table'} is not a model")


def test_an_onnx_file_is_identified_by_its_content(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    assert identify(written(tmp_path / "model.bin", model.SerializeToString())) is SourceKind.ONNX


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return path


def test_a_skops_file_is_identified_by_its_schema(tmp_path: Path) -> None:
    assert identify(zipped(tmp_path / "model", "schema.json", "1.npy")) is SourceKind.SKLEARN


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        identify(path)
    return str(caught.value)


def test_a_truncated_keras_file_is_rejected(tmp_path: Path) -> None:
    whole = keras_file().read_bytes()
    path = written(tmp_path / "cut.keras", whole[: len(whole) * 2 // 3])
    assert refusal(path) == f"{path} must be a complete archive, but it is truncated or damaged: copy it again"


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    content = bytearray(keras_file().read_bytes())
    place = content.index(b"HDF")
    content[place + 100] ^= 0xFF
    path = written(tmp_path / "damaged.keras", bytes(content))
    assert refusal(path) == f"{path} must be a complete archive, but model.weights.h5 in it is damaged: copy it again"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "{} must be a model, but it is empty; " + SUPPORTED, id="empty"),
        pytest.param(b"name,age\n", "{} is not a model of a known format; " + SUPPORTED, id="text"),
        pytest.param(b"\x08\x07\xff\xff\xff", "{} must be a complete ONNX file, but " + CUT, id="cut"),
        pytest.param(b"\x08\x07", "{} is not a model of a known format; " + SUPPORTED, id="no graph"),
    ],
)
def test_other_files_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "file", content)
    assert refusal(path) == message.format(path)


def test_an_archive_without_a_model_is_rejected(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "readme.txt")
    assert refusal(path) == f"{path} is a zip archive, but it does not hold a model; {SUPPORTED}"


SAVE = (
    "save it with torch.export.save(torch.export.export(module, example_inputs), 'model.pt2'), or with "
    "torch.jit.save(torch.jit.trace(module, example_inputs), 'model.pt'), and convert that"
)
WEIGHTS = "{} is a PyTorch file of weights without a network: build the network, load them into it with load_state_dict, " + SAVE
MODULE = (
    "{} is a PyTorch file of a pickled module, which is of no use without the code of its classes: open it with torch.load "
    "where that code is installed, " + SAVE
)
TENSOR = b"ccollections\nOrderedDict\nq\x00)R(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\nq\x01ctorch\nFloatStorage\n"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        pytest.param(TENSOR, WEIGHTS, id="weights"),
        pytest.param(b"ctorch.nn.modules.linear\nLinear\nq\x00" + TENSOR, MODULE, id="module"),
        pytest.param(b"cmodels.yolo\nModel\nq\x00" + TENSOR, MODULE, id="class of a project"),
    ],
)
def test_a_pytorch_file_without_a_graph_is_refused_with_the_way_out(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + pickled)
    assert refusal(path) == message.format(path)
    old = written(tmp_path / "old.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02" + pickled)
    assert refusal(old) == message.format(old)


def test_compiled_pytorch_files_are_refused_by_name(tmp_path: Path) -> None:
    package = zipped(tmp_path / "model.pt2", "model/data/aotinductor/model/code.so")
    assert refusal(package) == (
        f"{package} is a package of AOTInductor, which holds machine code and no graph: convert the model that it was made from"
    )
    program = written(tmp_path / "model.pte", b"\x20\x00\x00\x00ET12" + bytes(32))
    assert refusal(program) == (
        f"{program} is an ExecuTorch program (.pte), whose graph is already lowered for that runtime: convert the model that it "
        "was made from"
    )


def test_a_torchscript_archive_is_identified_by_its_code(tmp_path: Path) -> None:
    path = zipped(tmp_path / "model.pt", "model/data.pkl", "model/constants.pkl", "model/code/__torch__.py")
    assert identify(path) is SourceKind.TORCHSCRIPT


def test_a_pytorch_program_is_identified_by_its_graph(tmp_path: Path) -> None:
    assert identify(zipped(tmp_path / "model", "m/models/model.json", "m/data/sample_inputs/model.pt")) is SourceKind.TORCH


def test_a_missing_file_is_rejected(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: no such file; {SUPPORTED}"


def test_a_directory_without_a_model_is_rejected(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a directory without a model; {SUPPORTED}"


def test_a_saved_model_is_identified_by_the_files_in_the_directory(tmp_path: Path) -> None:
    written(tmp_path / "saved_model.pb", b"\x08\x01")
    assert identify(tmp_path) is SourceKind.SAVED_MODEL


def test_text_with_leading_empty_lines_is_not_a_frozen_graph(tmp_path: Path) -> None:
    path = written(tmp_path / "notes", b"\n\n\n\x12Some Text about Models")
    assert refusal(path) == f"{path} is not a model of a known format; {SUPPORTED}"


def test_a_tensorflow_lite_file_is_identified_by_its_identifier(tmp_path: Path) -> None:
    assert identify(written(tmp_path / "model", b"\x1c\x00\x00\x00TFL3\x14\x00")) is SourceKind.TFLITE


CORE_ML = b"\x08\x04" + b"\x12\x03\x0a\x01x" + b"\xa2\x1f\x02\x0a\x00"
"""Specification version, description, and a neural network (field 500)."""


@pytest.mark.parametrize(
    ("name", "content", "start"),
    [
        pytest.param("m", b"\x18\x00\x00\x00ORTM", "an ONNX Runtime file (.ort)", id="ort"),
        pytest.param("m", b"GGUF\x03\x00\x00\x00", "a GGUF file", id="gguf"),
        pytest.param("m", b"\x40" + bytes(7) + b'{"weight":{"dtype":"F32"', "a safetensors file", id="safetensors"),
        pytest.param("m", b'{"format": "layers-model", "modelTopology": {', "a TensorFlow.js layers model", id="tfjs layers"),
        pytest.param("m", b'{"format": "graph-model", "modelTopology": {', "a TensorFlow.js graph model", id="tfjs graph"),
        pytest.param("m", CORE_ML, "a Core ML model", id="core ml"),
        pytest.param("m", b"\n\xb4\x8f\x02\x08\x00\x10\xff\xff", "a PaddlePaddle model", id="paddle program"),
        pytest.param("m", b'{"base_code":{"magic":"pir","version":1}', "a PaddlePaddle model", id="paddle json"),
        pytest.param("m.pdiparams", b"\x00\x00\x00\x00", "a PaddlePaddle model", id="paddle weights"),
        pytest.param("m", b'<?xml version="1.0"?>\n<net name="m" version="11">', "an OpenVINO model (IR)", id="openvino"),
    ],
)
def test_a_model_of_another_format_is_refused_with_the_way_out(tmp_path: Path, name: str, content: bytes, start: str) -> None:
    path = written(tmp_path / name, content)
    message = refusal(path)
    assert message.startswith(f"{path} is {start}")
    assert "convert" in message or "save" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("member", "content", "start"),
    [
        pytest.param("model.json", b'{"format":"graph-model"', "a TensorFlow.js graph model", id="tfjs"),
        pytest.param("Data/com.apple.CoreML/model.mlmodel", b"\x08\x07", "a Core ML model", id="mlpackage"),
        pytest.param("inference.pdmodel", b"\n", "a PaddlePaddle model", id="paddle"),
        pytest.param("model.safetensors", b"\x02", "a safetensors file", id="hugging face"),
    ],
)
def test_a_directory_of_another_format_is_refused_with_the_way_out(
    tmp_path: Path, member: str, content: bytes, start: str
) -> None:
    (tmp_path / member).parent.mkdir(parents=True, exist_ok=True)
    written(tmp_path / member, content)
    assert refusal(tmp_path).startswith(f"{tmp_path} is {start}")
