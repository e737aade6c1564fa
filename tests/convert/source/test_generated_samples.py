"""Generated samples reach what the source accepts."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier

from convert.conversion import ConvertOptions, convert_model
from convert.source.input_uses import InputUse
from convert.source.samples import Attempt, generated_samples, without_failures
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import ModelError

NODE = helper.make_node


def test_an_image_has_a_sample_of_zeros_and_a_negative_one() -> None:
    image = generated_samples([TensorSpec(name="image", dtype="float32", shape=("N", 3, 4, 4))]).inputs["image"]
    assert not image[1].any()
    assert (image[2] < 0).all()


def test_a_mask_is_ones_and_then_zeros() -> None:
    spec = TensorSpec(name="m", dtype="int64", shape=("N", "L"))
    mask = generated_samples([spec], {"m": InputUse(mask=True)}).inputs["m"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask[:, 0].all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert mask[0].all()


def test_tables_have_every_side_of_a_split_and_missing_values() -> None:
    spec = TensorSpec(name="features", dtype="float32", shape=("N", 2))
    split = np.float32(1234.5)
    use = InputUse(splits={1: np.array([split])}, sentinels=(-7.0,))
    table = generated_samples([spec], {"features": use}, Attempt(missing=True)).inputs["features"]
    assert {split, np.nextafter(split, np.float32(np.inf)), np.nextafter(split, np.float32(-np.inf))} <= set(table[:, 1])
    assert np.isnan(table).any()
    assert not np.isnan(generated_samples([spec], {"features": use}).inputs["features"]).any()


def test_samples_for_which_the_source_fails_are_left_out() -> None:
    outputs = {"y": np.array([[1.0], [np.nan], [2.0]]), "whole": np.zeros(7)}
    samples, expected = without_failures(Samples({"x": np.arange(3)}), outputs)
    np.testing.assert_array_equal(samples.inputs["x"], [0, 2])
    np.testing.assert_array_equal(expected["y"], [[1.0], [2.0]])


def transformer(path: Path, mask: str) -> Path:
    """Write an attention with the additive mask of exported transformers, (1 - mask) * smallest float."""
    nodes = [
        NODE("Gather", ["table", "ids"], ["e"]),
        NODE("Cast", [mask], ["m"], to=TensorProto.FLOAT),
        NODE("Sub", ["one", "m"], ["inverse"]),
        NODE("Mul", ["inverse", "smallest"], ["added"]),
        NODE("Unsqueeze", ["added", "axis"], ["wide"]),
        NODE("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
        NODE("MatMul", ["e", "t"], ["scores"]),
        NODE("Add", ["scores", "wide"], ["masked"]),
        NODE("Softmax", ["masked"], ["p"], axis=-1),
        NODE("MatMul", ["p", "e"], ["y"]),
    ]
    weights = {
        "table": np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32),
        "one": np.array(1, np.float32),
        "smallest": np.array(np.finfo(np.float32).min),
        "axis": np.array([1]),
    }
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in ("ids", mask)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "L", 8])
    graph = helper.make_graph(nodes, "g", inputs, [output], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("mask", ["attention_mask", "second"])
def test_a_transformer_converts_whatever_its_mask_is_called(tmp_path: Path, mask: str) -> None:
    build = convert_model(transformer(tmp_path / "m.onnx", mask), tmp_path / "build", ConvertOptions())
    assert np.isfinite(np.load(build.graph / "golden_outputs.npz")["y"]).all()
    assert set(np.unique(np.load(build.graph / "golden_inputs.npz")[mask])) == {0, 1}


def test_a_source_that_gives_no_numbers_asks_for_samples(tmp_path: Path) -> None:
    nodes = [NODE("Sub", ["x", "x"], ["zero"]), NODE("Div", ["zero", "zero"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="gives NaN or infinity for every generated sample: give real ones with --samples"):
        convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions())


def test_the_golden_samples_of_a_forest_hold_missing_values(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(200, 4)) * 1000
    joblib.dump(RandomForestClassifier(4, random_state=0).fit(x, x[:, 0] > 300), tmp_path / "m.pkl")
    build = convert_model(tmp_path / "m.pkl", tmp_path / "build", ConvertOptions(trust=True))
    golden = np.load(build.graph / "golden_inputs.npz")["features"]
    assert np.isnan(golden).any()
    assert np.nanmax(np.abs(golden)) > 100
