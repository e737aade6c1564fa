"""Errors of the caller that only the runtime or a parser finds: 400, counted as rejected, no evidence about the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.backends.onnxruntime_cpu import OnnxRuntime
from convert.featurizers.preprocessing import MODES
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory
from edgewright.errors import InferenceError, SamplesError
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.variants.fault_attribution import FaultAttribution
from edgewright.serving.variants.images import ImageInput
from tests.support.serving_fixtures import Client, serving

Node = onnx.NodeProto
FREE = ["N", "T"]


def graph_of(
    folder: Path, nodes: list[Node], dtype: str, shape: list[Any], constants: dict[str, np.ndarray[Any, Any]]
) -> VariantDirectory:
    """Write a variant with one input `x` and one float output `y` that has a dynamic batch axis."""
    folder.mkdir()
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", code, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / LayerKind.GRAPH.file_name).write_bytes(model.SerializeToString())
    config = VariantConfig(
        variant="fp32",
        backend="onnxruntime",
        precision=Precision.FP32,
        inputs=(TensorSpec(name="x", dtype=dtype, shape=tuple(shape)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("N", "M")),),
        tolerance=Tolerance(max_relative_difference=1e-4, min_agreement=1.0),
        size_bytes=1000,
    )
    return VariantDirectory.write(folder, config)


def embedding(folder: Path) -> VariantDirectory:
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["rows"], axis=0),
        helper.make_node("ReduceMean", ["rows", "axis"], ["y"], keepdims=0),
    ]
    return graph_of(folder, nodes, "int64", FREE, {"table": np.ones((10, 4), np.float32), "axis": np.array([1])})


def rows_of_four(folder: Path) -> VariantDirectory:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["folded"]),
        helper.make_node("ReduceSum", ["folded", "axis"], ["y"], keepdims=0),
    ]
    return graph_of(folder, nodes, "float32", FREE, {"shape": np.array([0, -1, 4]), "axis": np.array([1])})


def matrix(folder: Path) -> VariantDirectory:
    return graph_of(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], "float32", FREE, {"w": np.ones((4, 3), np.float32)})


def expanded(folder: Path) -> VariantDirectory:
    """A graph whose output has as many columns as the value of its input: some need more memory than there is."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Reshape", ["most", "one"], ["columns"]),
        helper.make_node("Concat", ["one", "columns"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    return graph_of(folder, nodes, "int64", FREE, {"one": np.array([1])})


KINDS = [
    pytest.param(embedding, [[1, 2, 3]], [[99999, 2, 3]], "indices element out of data bounds", id="index beyond a table"),
    pytest.param(embedding, [[1, 2, 3]], [[-11, 2, 3]], "indices element out of data bounds", id="index below a table"),
    pytest.param(rows_of_four, [[1.0] * 8], [[1.0] * 7], "cannot be reshaped", id="length that a Reshape rejects"),
    pytest.param(matrix, [[1.0] * 4], [[1.0] * 5], "dimension mismatch", id="dynamic axis of another size than the weights"),
    pytest.param(expanded, [[3, 2]], [[1 << 55, 2]], "ConstantOfShape", id="value that asks for petabytes"),
]


@contextlib.contextmanager
def scoring(variant: VariantDirectory, known_good: Tensors | None = None) -> Iterator[Client]:
    session = OnnxRuntime().load(variant, threads=1)
    with serving(ScoringApp(session, variant.config, model="m", version=1, known_good=known_good)) as client:
        yield client


def counts(client: Client) -> tuple[int, int, int]:
    stats = client.get("/stats").json
    return stats["count"], stats["rejected"], stats["errors"]


@pytest.mark.parametrize(("make", "good", "bad", "reason"), KINDS)
def test_values_that_only_the_runtime_rejects_are_a_400(tmp_path: Path, make: Any, good: Any, bad: Any, reason: str) -> None:
    variant = make(tmp_path / "v")
    golden = {"x": np.array(good, variant.config.inputs[0].dtype)}
    with scoring(variant, golden) as client:
        reply = client.post("/score", {"data": bad})
        assert reply.status == 400
        assert reason in reply.json["error"]
        assert str(tmp_path) not in reply.json["error"]
        assert counts(client) == (0, 1, 0)


@pytest.mark.parametrize(("make", "good", "bad", "reason"), KINDS)
def test_without_golden_samples_the_first_scored_input_is_the_known_good_one(
    tmp_path: Path, make: Any, good: Any, bad: Any, reason: str
) -> None:
    with scoring(make(tmp_path / "v")) as client:
        assert client.post("/score", {"data": good}).status == 200
        assert client.post("/score", {"data": bad}).status == 400
        assert counts(client) == (1, 1, 0)


def test_the_infer_route_judges_in_the_same_way(tmp_path: Path) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [99, 1]}
    with scoring(embedding(tmp_path / "v"), {"x": np.array([[1, 2]])}) as client:
        reply = client.post("/v2/models/m/infer", {"inputs": [tensor]})
        assert (reply.status, counts(client)) == (400, (0, 1, 0))


def test_a_graph_that_fails_on_its_golden_sample_is_at_fault_and_the_500_shows_no_path(tmp_path: Path) -> None:
    with scoring(embedding(tmp_path / "v"), {"x": np.array([[10]])}) as client:
        reply = client.post("/score", {"data": [[99]]})
        assert (reply.status, counts(client)) == (500, (0, 0, 1))
        assert reply.json["error"].startswith("the model failed to run: ")
        assert str(tmp_path) not in reply.json["error"]


class Flickering:
    """A session whose run fails the given number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def run(self, inputs: Tensors) -> Tensors:
        if self.failures > 0 and inputs["x"].max() > 1:
            self.failures -= 1
            raise InferenceError("g", "the accelerator lost its clock")
        return {"y": inputs["x"] * 2}

    def describe(self) -> dict[str, str]:
        return {"backend": "flickering"}

    def close(self) -> None:
        pass


def test_a_passing_failure_is_run_again_and_blamed_on_no_caller() -> None:
    judge = FaultAttribution(Flickering(1), {"x": np.array([1.0])})
    assert judge.run({"x": np.array([4.0])})["y"].tolist() == [8.0]


def test_an_input_that_fails_twice_beside_a_good_one_is_at_fault() -> None:
    judge = FaultAttribution(Flickering(2), {"x": np.array([1.0])})
    with pytest.raises(SamplesError, match=r"^the model cannot score these values: the accelerator lost its clock; send other"):
        judge.run({"x": np.array([4.0])})


DEEP = "[" * 20000 + "]" * 20000


def infer_body(data: str, shape: str = "[1,4]") -> bytes:
    return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"FP32","data":{data}}}]}}'.encode()


def npy_body(header: str) -> bytes:
    padded = header.ljust(((len(header) + 74) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


TENSOR = '{"name":"x","shape":[1,4],"datatype":"FP32","data":[0,0,0,0]}'
TWICE = f'{{"inputs":[{TENSOR},{TENSOR}]}}'.encode()

BODIES = [
    pytest.param("/v2/models/m/infer", "application/json", infer_body(DEEP), id="infer: nested too deep"),
    pytest.param("/v2/models/m/infer", "application/json", infer_body("[" * 70 + "1" + "]" * 70), id="infer: 70 axes"),
    pytest.param("/v2/models/m/infer", "application/json", infer_body("[1,2,3," + "9" * 5000 + "]"), id="infer: 5000 digits"),
    pytest.param("/v2/models/m/infer", "application/json", infer_body("[1,2,3,1e400]"), id="infer: beyond double"),
    pytest.param("/v2/models/m/infer", "application/json", infer_body("[]", f"[0,{2**70}]"), id="infer: size beyond 64 bits"),
    pytest.param("/v2/models/m/infer", "application/json", infer_body("[1]", str([1] * 70)), id="infer: shape of 70 axes"),
    pytest.param("/v2/models/m/infer", "application/json", TWICE, id="infer: one tensor twice"),
    pytest.param("/v2/models/m/infer", "application/json", b"[" * 20000, id="infer: not closed"),
    pytest.param("/score", "application/json", f'{{"data":{DEEP}}}'.encode(), id="score: nested too deep"),
    pytest.param("/score", "application/json", b'{"data":' + b"[" * 70 + b"1" + b"]" * 70 + b"}", id="score: 70 axes"),
    pytest.param("/score", "application/json", b'{"data":[[1,2,3,' + b"9" * 5000 + b"]]}", id="score: 5000 digits"),
    pytest.param("/score", "application/json", b'{"data":[[1,2,3,1e400]]}', id="score: beyond double"),
    pytest.param("/score", "application/json", b'{"data":[[1,2,3,1e39]]}', id="score: beyond float32"),
    pytest.param("/score", "application/x-npy", npy_body("(" * 5000), id="npy: nested header"),
    pytest.param(
        "/score", "application/x-npy", npy_body("{'descr':'<f4','fortran_order':False,'shape':(-1,0)}"), id="npy: negative size"
    ),
    pytest.param(
        "/score", "application/x-npy", npy_body(f"{{'descr':'<f4','fortran_order':False,'shape':(0,{2**70})}}"), id="npy: 2^70"
    ),
]


@pytest.mark.parametrize(("path", "media_type", "body"), BODIES)
def test_a_body_beyond_a_parser_is_a_400(tmp_path: Path, path: str, media_type: str, body: bytes) -> None:
    with scoring(matrix(tmp_path / "v"), {"x": np.ones((1, 4), np.float32)}) as client:
        reply = client.post(path, body, media_type)
        assert (reply.status, counts(client)) == (400, (0, 1, 0))
        assert "\n" not in reply.json["error"]


def test_a_length_of_thousands_of_digits_is_a_400(tmp_path: Path) -> None:
    with scoring(matrix(tmp_path / "v")) as client:
        reply = client.post("/v2/models/m/infer", infer_body("[1,2,3,4]"), inference_header_content_length="9" * 5000)
        assert (reply.status, counts(client)) == (400, (0, 1, 0))


def test_base64_outside_ascii_is_a_400_of_one_line() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("N", 2, 2, 3), axes=("batch", "height", "width", "channels"))
    with pytest.raises(SamplesError, match=r'"images" must be in base64: '):
        ImageInput(spec, MODES["none"]).from_base64(["é"])
