"""Samples that make a comparison or an accuracy meaningless are refused, or reported in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from accel.backends.onnxruntime_cpu import load_graph
from accel.sample_checks import check_numbers, warn_of_uninformative
from edgewright.contracts.samples import Samples, Tensors, load_samples, write_npz
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError

NODE = helper.make_node
RANDOM = np.random.default_rng(5).normal(size=(12, 4)).astype(np.float32)
UNUSED = "unused input={}: no output depends on it"
FIRST_ONLY = [NODE("Relu", ["a"], ["y"]), NODE("Identity", ["b"], ["unused"])]
BOTH = [NODE("Add", ["a", "b"], ["y"])]
NEITHER = [NODE("Sub", ["a", "a"], ["zero"]), NODE("Sub", ["b", "b"], ["also"]), NODE("Add", ["zero", "also"], ["y"])]
PLACE = [NODE("Sub", ["a", "a"], ["zero"]), NODE("Add", ["zero", "b"], ["s"]), NODE("ArgMax", ["s"], ["y"], axis=1, keepdims=0)]


def warnings_of(folder: Path, caplog: pytest.LogCaptureFixture, nodes: list[NodeProto], samples: Samples) -> list[str]:
    """Return the warnings for samples a and b, float32[N, 4], of a graph."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("y", TensorProto.INT64 if nodes is PLACE else TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", values, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    session = load_graph(folder / "m.onnx")
    warn_of_uninformative(session, samples, session.run(samples.inputs), batch_size=32)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("nodes", "samples", "lines"),
    [
        pytest.param(BOTH, Samples({"a": RANDOM, "b": RANDOM * 2}), [], id="both inputs count"),
        pytest.param(
            FIRST_ONLY, Samples({"a": RANDOM, "b": RANDOM}), ["unused input=b: no output depends on it"], id="one counts"
        ),
        pytest.param(PLACE, Samples({"a": RANDOM, "b": RANDOM}), ["unused input=a: no output depends on it"], id="a class"),
        pytest.param(FIRST_ONLY, Samples({"a": RANDOM, "b": np.ones_like(RANDOM)}), [], id="an input with one value"),
        pytest.param(
            NEITHER,
            Samples({"a": RANDOM, "b": RANDOM}),
            ["constant output=y samples=12: it does not depend on the model's input"],
            id="no input counts",
        ),
        pytest.param(
            BOTH,
            Samples({"a": np.ones_like(RANDOM), "b": np.ones_like(RANDOM)}),
            ["equal samples count=12: other inputs are not compared"],
            id="equal samples",
        ),
        pytest.param(
            BOTH,
            Samples({"a": RANDOM, "b": RANDOM}, np.full(12, 3)),
            ["one class label=3: the accuracy covers no other class"],
            id="labels of one class",
        ),
        pytest.param(FIRST_ONLY, Samples({"a": RANDOM[:1], "b": RANDOM[:1]}, np.array([3])), [], id="one sample"),
    ],
)
def test_each_property_has_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nodes: list[NodeProto], samples: Samples, lines: list[str]
) -> None:
    assert warnings_of(tmp_path, caplog, nodes, samples) == lines


def pictures(*scales: float, last: bool = False) -> Any:
    """Return 12 pictures whose channels reach from 0 to `scales`."""
    unit = np.linspace(0, 1, 12 * 16, dtype=np.float32).reshape(12, 4, 4)
    return np.stack([unit * scale for scale in scales], axis=3 if last else 1)


@pytest.mark.parametrize(
    ("images", "lines"),
    [
        pytest.param(
            pictures(1, 255, 1),
            ["channel ranges input=x channel_0=[0, 1] channel_1=[0, 255]: prepare all channels in the same way"],
            id="bytes beside fractions",
        ),
        pytest.param(
            pictures(2, 2, 0, last=True),
            ["channel ranges input=x channel_2=[0, 0] channel_0=[0, 2]: prepare all channels in the same way"],
            id="a constant channel, last",
        ),
        pytest.param(pictures(1, 2, 4), [], id="alike"),
        pytest.param(pictures(1, 255), [], id="no colors"),
        pytest.param(pictures(1, 255, 1)[:, :, 0], [], id="no pictures"),
    ],
)
def test_colors_with_different_ranges_have_one_line(images: Any, lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    session = Doubling()
    warn_of_uninformative(session, Samples({"x": images}), session.run({"x": images}), batch_size=32)
    assert [record.getMessage() for record in caplog.records] == lines


class Doubling:
    """Session that doubles its input."""

    def run(self, inputs: Tensors) -> Tensors:
        return {"y": inputs["x"] * 2}

    def describe(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


def holed(rows: list[int]) -> Any:
    """Return random numbers with NaN in some rows."""
    table = RANDOM.copy()
    table[rows, 1] = np.nan
    return table


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        pytest.param(
            {"n": np.arange(12), "y": holed([5, 7])},
            "x.npz: samples must not hold NaN where the model gives NaN for it, but x holds NaN in 2 of 12 samples, first in "
            "sample 5, and output y is NaN there: leave those out",
            id="passed on",
        ),
        pytest.param(
            {"y": RANDOM * np.float32(np.nan)},
            "x.npz: samples must not hold NaN where the model gives NaN for it, but x holds NaN in 2 of 12 samples, first in "
            "sample 5, and output y is NaN there: leave those out",
            id="all NaN",
        ),
    ],
)
def test_nan_that_the_model_passes_on_is_refused(outputs: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SamplesError) as caught:
        check_numbers(Samples({"x": holed([5, 7])}), dict(outputs), "x.npz")
    assert str(caught.value) == message


def test_a_model_that_gives_nan_for_every_sample_is_refused() -> None:
    with pytest.raises(SamplesError, match=r"x\.npz: the model gives NaN in output y for every sample: give samples of its real"):
        check_numbers(Samples({"x": RANDOM}), {"y": RANDOM * np.float32(np.nan)}, "x.npz")


def test_nan_that_the_model_takes_and_nan_that_it_gives_for_numbers_are_accepted() -> None:
    check_numbers(Samples({"x": holed([5])}), {"y": holed([6]), "minus infinity": RANDOM - np.float32(np.inf)}, "x.npz")


def test_an_axis_of_size_0_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"ids": np.zeros((8, 0), np.int64)})
    with pytest.raises(SamplesError) as caught:
        load_samples(tmp_path / "x.npz", [TensorSpec(name="ids", dtype="int64", shape=("N", "L"))])
    assert str(caught.value) == f"{tmp_path}/x.npz: samples of ids must have no axis of size 0, but they have shape [8, 0]"
