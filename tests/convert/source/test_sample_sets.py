"""A graph is compared with its source in several batch sizes and several sizes of the free axes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from convert.options import ConvertOptions
from convert.source.identify import SourceKind
from convert.source.layout import PLAIN
from convert.source.sample_sets import Candidate, given_samples, other_sizes
from convert.source.samples import Attempt, generated_samples, usable_sizes
from convert.verification import WrittenGraph, verify, with_samples
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import Measured, TensorSpec
from edgewright.errors import ParityError

NODE = helper.make_node
INPUT = TensorSpec(name="x", dtype="float32", shape=("N", "height", "width"))
CONSTANTS = {
    "0": np.array(0),
    "1": np.array(1),
    "2": np.array(2),
    "[0]": np.array([0]),
    "[1]": np.array([1]),
    "[16]": np.array([16]),
    "[1, 2]": np.array([1, 2]),
    "[8]": np.array([8]),
    "[99]": np.array([99]),
    "256.0": np.array(256, np.float32),
    "of 16": np.array([0, 16, 16]),
    "of 64": np.array([0, 64, 64]),
}


def graph_file(path: Path, nodes: list[NodeProto]) -> Path:
    """Write a graph from x float32[N, height, width] to y."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, INPUT.shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def pooled(*, ceil_mode: int) -> list[NodeProto]:
    """Return a maximum pooling by two, in which the last incomplete window counts or not."""
    pool = NODE("MaxPool", ["wide"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil_mode)
    return [NODE("Unsqueeze", ["x", "[1]"], ["wide"]), pool, NODE("ReduceMax", ["p"], ["y"], axes=[1, 2, 3], keepdims=0)]


def sum_over(axis: str) -> list[NodeProto]:
    """Return the sum of a sample over the size of an axis."""
    sizes = [NODE("Shape", ["x"], ["shape"]), NODE("Gather", ["shape", axis], ["size"])]
    divided = NODE("Div", ["s", "f"], ["y"])
    return [*sizes, NODE("Cast", ["size"], ["f"], to=TensorProto.FLOAT), NODE("ReduceSum", ["x", "[1, 2]"], ["s"]), divided]


SUM = [NODE("ReduceSum", ["x", "[1, 2]"], ["y"])]
MEAN = [NODE("ReduceMean", ["x"], ["y"], axes=[1, 2])]
SUM_OF_256 = [NODE("ReduceSum", ["x", "[1, 2]"], ["s"]), NODE("Div", ["s", "256.0"], ["y"])]
FIRST_16 = [NODE("Slice", ["x", "[0]", "[16]", "[1]"], ["a"]), NODE("ReduceSum", ["a", "[1, 2]"], ["y"])]
AWAY_FROM_BATCH = [NODE("ReduceMean", ["x"], ["m"], axes=[0]), NODE("Sub", ["x", "m"], ["y"])]


def only_of(size: int) -> list[NodeProto]:
    """Return a graph that takes one size only."""
    return [NODE("Reshape", ["x", f"of {size}"], ["r"]), NODE("Relu", ["r"], ["y"])]


def compared(folder: Path, source: list[NodeProto], graph: list[NodeProto], samples: Samples | None = None) -> Measured:
    """Compare a graph with another one as its source."""
    path = graph_file(folder / "source.onnx", source)
    file = graph_file(folder / "build" / "graph" / "graph.onnx", graph)
    (folder / "build" / "reports").mkdir()
    specs = (TensorSpec(name="y", dtype="float32", shape=("N",)),)
    written = WrittenGraph.open(folder / "build", ir.load(file).graph, specs, PLAIN, source=path)
    options = ConvertOptions(samples=None if samples is None else folder / "x.npz")
    candidates = [generated(size) for size in usable_sizes([INPUT])] if samples is None else [given_samples(samples, [INPUT])]
    run = with_samples(SourceKind.ONNX, path, written, candidates, options)
    return verify(run, tolerance=1e-4, options=options, source=path)


def generated(size: int) -> Candidate:
    """Return generated samples of one size."""
    attempt = Attempt(size=size)
    return Candidate(
        generated_samples([INPUT], attempt=attempt),
        (INPUT,),
        lambda sizes: generated_samples([INPUT], attempt=attempt, sizes=sizes),
    )


def other_shapes(folder: Path) -> list[str]:
    """Return the sets that the report of `compared` lists."""
    report = json.loads((folder / "build" / "reports" / "parity.json").read_text("utf-8"))
    return list(report["other_shapes"])


def in_batches_of_2(*sizes: tuple[int, int]) -> list[str]:
    return [f"samples of x[{height}, {width}] in batches of 2" for height, width in sizes]


@pytest.mark.parametrize("given", [pytest.param(False, id="generated"), pytest.param(True, id="real")])
@pytest.mark.parametrize(
    ("source", "graph", "where"),
    [
        pytest.param(MEAN, SUM_OF_256, "for samples of x[7, 7] in batches of 2", id="one length"),
        pytest.param(pooled(ceil_mode=1), pooled(ceil_mode=0), "for samples of x[7, 7] in batches of 2", id="even lengths"),
        pytest.param(SUM, FIRST_16, "for samples of x[24, 24] in batches of 2", id="short lengths"),
        pytest.param(sum_over("1"), sum_over("2"), "for samples of x[24, 32] in batches of 2", id="square inputs"),
        pytest.param(SUM, sum_over("0"), "for samples of x[16, 16] in batches of 2", id="a batch of one"),
    ],
)
def test_a_graph_that_is_the_same_for_some_shapes_only_is_found(
    tmp_path: Path, source: list[NodeProto], graph: list[NodeProto], where: str, given: bool
) -> None:
    real = Samples({"x": np.random.default_rng(3).normal(size=(40, 16, 16)).astype(np.float32)})
    with pytest.raises(ParityError) as caught:
        compared(tmp_path, source, graph, real if given else None)
    assert where in str(caught.value)


def test_a_size_for_which_the_source_gives_nothing_is_not_compared(tmp_path: Path) -> None:
    cropped = NODE("Slice", ["x", "[8]", "[99]", "[1]"], ["c"])
    pooled_once = NODE("MaxPool", ["wide"], ["p"], kernel_shape=[1, 1])  # onnxruntime refuses an empty axis here
    graph = [cropped, NODE("Unsqueeze", ["c", "[1]"], ["wide"]), pooled_once, NODE("Squeeze", ["p", "[1]"], ["y"])]
    compared(tmp_path, [cropped, NODE("Identity", ["c"], ["y"])], graph)
    assert other_shapes(tmp_path) == in_batches_of_2((16, 16), (24, 24), (24, 32))


def test_a_graph_that_cannot_be_run_for_a_shape_is_found(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"must be the same as the source for all shapes, but not for samples of x\[7, 7\]"):
        compared(tmp_path, [NODE("Relu", ["x"], ["y"])], only_of(16))


def test_a_graph_that_mixes_samples_as_its_source_does_is_the_same(tmp_path: Path) -> None:
    assert compared(tmp_path, AWAY_FROM_BATCH, AWAY_FROM_BATCH).sample_count == 32
    assert other_shapes(tmp_path) == in_batches_of_2((16, 16), (7, 7), (1, 1), (24, 24), (24, 32))


@pytest.mark.parametrize("size", [16, 64])
def test_a_source_that_takes_one_size_only_is_compared_in_that_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    with caplog.at_level(logging.WARNING):
        compared(tmp_path, only_of(size), only_of(size))
    assert [record.getMessage() for record in caplog.records] == [
        f"compared only with samples of x[{size}, {size}] in batches of 32: the source cannot run other sizes; "
        "fix them with --shape"
    ]


def test_axes_of_one_name_have_one_size_and_others_also_unequal_ones() -> None:
    assert other_sizes({"words": 16}) == [{"words": 7}, {"words": 1}, {"words": 24}]
    assert other_sizes({"h": 16, "w": 16})[-1] == {"h": 24, "w": 32}
    assert other_sizes({}) == []
