"""Samples that cannot calibrate are refused first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import load_samples, write_npz
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ParityError, SamplesError
from edgewright.graphs.files import read_graph
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import check_calibration, tensor_ranges
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import digits
from tests.support.quantize_builds import contents, digits_build, onnx_file, training_samples


def images(count: int = 40) -> Any:
    return digits()[0][:count]


def refusal(samples: Path) -> str:
    build, before = digits_build(), contents(digits_build().path)
    with pytest.raises(SamplesError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=samples))
    assert contents(digits_build().path) == before
    return str(raised.value)


def test_constant_samples_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"image": np.full((5, 8, 8, 1), 0.5, np.float32)})
    assert refusal(tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: samples of image must vary, but every value is 0.5: give real samples of the model's input"
    )


def two_inputs(folder: Path, ids: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64]) -> tuple[BuildDirectory, Path]:
    """Return a build of a network that looks up two inputs in tables, and samples of them."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["w"], name="w"),
        helper.make_node("Gather", ["sorts", "kinds"], ["k"], name="k"),
        helper.make_node("Add", ["w", "k"], ["s"], name="s"),
        helper.make_node("MatMul", ["s", "m"], ["y"], name="y"),
    ]
    shapes = {"words": (30, 8), "sorts": (2, 8), "m": (8, 4)}
    weights = [numpy_helper.from_array(np.random.default_rng(2).normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 6]) for name in ("ids", "kinds")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    write_npz(folder / "x.npz", {"ids": ids, "kinds": kinds})
    return convert_model(folder / "m.onnx", folder / "build", ConvertOptions()), folder / "x.npz"


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.FP16, Scheme.MXINT8])
def test_samples_in_which_one_of_two_inputs_is_constant_calibrate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: Scheme
) -> None:
    ids = np.random.default_rng(1).integers(0, 30, (64, 6))
    build, path = two_inputs(tmp_path, ids, np.zeros_like(ids))
    assert quantize(build, QuantizeOptions(scheme=scheme, samples=path)).evaluation.count == 64
    assert "constant input=kinds value=0: other values of this input are not calibrated" in caplog.text


def test_samples_in_which_no_input_varies_are_refused(tmp_path: Path) -> None:
    zeros = np.zeros((64, 6), np.int64)
    build, path = two_inputs(tmp_path, zeros + 3, zeros)
    with pytest.raises(SamplesError, match="samples of ids and kinds must vary, but every value is 3 and 0"):
        quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=path))


def test_an_empty_set_of_samples_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"image": images(0)})
    assert refusal(tmp_path / "x.npz") == f"{tmp_path}/x.npz: at least one sample is needed, but image has none"


def test_samples_with_another_scale_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"image": (images() * 255).astype(np.uint8)})
    assert refusal(tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: samples of image must be in the range that the model was converted with, 0 to 1, "
        "but they are 0 to 255: scale them as in training"
    )


def test_samples_with_nan_are_refused(tmp_path: Path) -> None:
    broken = images().copy()
    broken[3, 2, 2, 0] = np.nan
    write_npz(tmp_path / "x.npz", {"image": broken})
    assert refusal(tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: samples of image must be finite numbers, but some are NaN or infinite: leave those out"
    )


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"image": images().reshape(-1, 64)})
    assert refusal(tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: input image must have shape [N, 8, 8, 1], but the samples have shape [40, 64]"
    )


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_npz(path, {"image": images()})
    path.write_bytes(path.read_bytes()[:500])
    assert refusal(path).startswith(f"{path}: samples must be a .npz of plain arrays: ")


def test_labels_outside_of_the_classes_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"image": images(), "labels": np.arange(40)})
    assert refusal(tmp_path / "x.npz") == "labels must be class indices from 0 to 9, but they range from 0 to 39"


def test_a_variant_that_loses_too_much_is_not_kept(tmp_path: Path) -> None:
    """One input is a hundred times the other, so eight bits for both lose the sign of small values of the other one."""
    rows = np.random.default_rng(4).uniform(-1, 1, (200, 2)).astype(np.float32) * np.array([100, 1], np.float32)
    write_npz(tmp_path / "x.npz", {"x": rows, "labels": (rows[:, 1] > 0).astype(np.int64)})
    node = helper.make_node("MatMul", ["x", "small"], ["y"], name="small")
    weights = {"small": np.array([[0.0, 0.0], [-1.0, 1.0]])}
    source = onnx_file(tmp_path / "m.onnx", [node], weights, given=("x", ["N", 2]), wanted=("y", ["N", 2]))
    build = convert_model(source, tmp_path / "build", ConvertOptions(samples=tmp_path / "x.npz"))
    with pytest.raises(ParityError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=tmp_path / "x.npz", max_drop=0.1))
    assert re.fullmatch(
        r"int8 may lose at most 10.00% of accuracy, but it falls from 100.00% to [78]\d.\d\d%: "
        "allow more with --max-drop, give more samples, or use fp16",
        str(raised.value),
    )
    assert [one.config.variant for one in build.variants()] == ["fp32"]


def test_ranges_cover_every_value_for_all_batch_sizes() -> None:
    graph = digits_build().graph / LayerKind.GRAPH.file_name
    ranges = tensor_ranges(ObservedGraph.open(graph), load_samples(training_samples(), digits_build().record.inputs))
    assert ranges["image"] == (0.0, 1.0)
    assert {str(value.name) for node in read_graph(graph).graph for value in node.outputs} <= set(ranges)


@pytest.mark.parametrize(
    ("factor", "extent"), [pytest.param(255, "reaches 255", id="not scaled"), pytest.param(0, "reaches 0", id="empty")]
)
def test_pictures_with_another_scale_in_one_channel_are_refused(tmp_path: Path, factor: float, extent: str) -> None:
    pictures = np.random.default_rng(2).random((40, 3, 8, 8)).astype(np.float32)
    pictures[0, :, 0, 0] = 1.0
    node = helper.make_node("GlobalAveragePool", ["image"], ["y"])
    values = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    write_npz(tmp_path / "x.npz", {"image": pictures})
    build = convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions(samples=tmp_path / "x.npz"))
    check_calibration(load_samples(tmp_path / "x.npz", build.record.inputs), build, tmp_path / "x.npz")
    pictures[:, 2] *= factor
    write_npz(tmp_path / "other.npz", {"image": pictures})
    with pytest.raises(SamplesError, match=rf"channel 2 of image must have the range .* up to 1, but it {extent}: scale every"):
        check_calibration(load_samples(tmp_path / "other.npz", build.record.inputs), build, tmp_path / "other.npz")
