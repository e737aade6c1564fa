"""Laws for graphs with constants of any size, in every scheme: a variant or one line, and no NaN that the source has not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from accel.first_run import FirstRuns
from edgewright.contracts.samples import write_npz
from edgewright.errors import EdgewrightError
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.float_builds import float_build, float_model, run

WIDTH = 6
EXTREMES = [0.0, 1e-45, 1e-38, 1e-12, 1e-8, 6e-8, 1e-5, 0.01, 0.5, 3.0, 1e3, 6e4, 7e4, 1e9, 3.4e38, np.inf]
ONE_INPUT = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Sqrt", "Reciprocal", "Log", "Softplus", "Softmax"]
WITH_CONSTANT = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Where"]
NORMALIZING = ["LayerNormalization", "LpNormalization", "unit length", "root mean square"]
LAYERS = ["MatMul", "Gemm"]

constants = st.one_of(
    st.builds(lambda size, sign: np.array(size * sign, np.float32), st.sampled_from(EXTREMES), st.sampled_from([1, -1])),
    st.builds(lambda sizes: np.array(sizes, np.float32), st.lists(st.sampled_from(EXTREMES), min_size=WIDTH, max_size=WIDTH)),
)
steps = st.one_of(
    st.tuples(st.sampled_from(ONE_INPUT), st.none()),
    st.tuples(st.sampled_from(WITH_CONSTANT), constants),
    st.tuples(st.sampled_from(NORMALIZING), st.sampled_from([1e-12, 1e-8, 1e-5])),
    st.tuples(st.sampled_from(LAYERS), st.sampled_from([1e-9, 1e-4, 1.0, 1e4])),
)


@pytest.fixture(scope="module")
def first_runs() -> Iterator[FirstRuns]:
    with FirstRuns() as runs:
        yield runs


@pytest.mark.parametrize("scheme", [Scheme.FP16, Scheme.INT8, Scheme.MXINT8], ids=str)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=st.lists(steps, min_size=1, max_size=4))
def test_law_a_variant_or_one_line_and_no_new_infinity(first_runs: FirstRuns, scheme: Scheme, chain: list[Any]) -> None:
    rows = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32)
    model = network(chain, rows)
    expected = {given: run(model, array) for given, array in (("samples", rows), ("zeros", np.zeros((1, WIDTH), np.float32)))}
    assume(np.isfinite(expected["samples"]).all())
    with tempfile.TemporaryDirectory() as folder:
        write_npz(Path(folder) / "x.npz", {"x": rows})
        try:
            build = float_build(Path(folder) / "b", model, rows)
            made = quantize(build, QuantizeOptions(scheme=scheme, samples=Path(folder) / "x.npz"), first_runs=first_runs)
        except EdgewrightError:
            return
        graph = made.variant.path / "graph.onnx"
        actual = {"samples": run(graph, rows), "zeros": run(graph, np.zeros((1, WIDTH), np.float32))}
    assert all(np.isfinite(actual[given][np.isfinite(expected[given])]).all() for given in actual)
    largest = np.abs(expected["samples"]).max()
    difference = np.abs(actual["samples"].astype(np.float64) - expected["samples"]).max()
    assert made.evaluation.max_relative_difference >= 0.99 * difference / max(largest, 1e-30) - 1e-5


def network(chain: list[Any], rows: Any) -> onnx.ModelProto:
    """Return a layer, the steps of the chain, and a layer."""
    nodes: list[onnx.NodeProto] = []
    named: dict[str, Any] = {}
    last = "x"
    for place, (operator, argument) in enumerate([("MatMul", 1.0), *chain, ("MatMul", 1.0)]):
        wanted = "y" if place == len(chain) + 1 else f"t{place}"
        nodes += step(operator, argument, last, wanted, named)
        last = wanted
    return float_model(nodes, named, rows)


def step(operator: str, argument: Any, given: str, wanted: str, named: dict[str, Any]) -> list[onnx.NodeProto]:
    """Return the nodes of one step; its constants are added to `named`."""
    constant = f"{wanted}/c"
    if operator in ONE_INPUT:
        return [helper.make_node(operator, [given], [wanted], name=wanted)]
    if operator in LAYERS:
        named[constant] = (np.random.default_rng(len(named)).normal(size=(WIDTH, WIDTH)) * argument).astype(np.float32)
        return [helper.make_node(operator, [given, constant], [wanted], name=wanted)]
    if operator == "LpNormalization":
        return [helper.make_node(operator, [given], [wanted], name=wanted, p=2)]
    if operator == "LayerNormalization":
        named[constant] = np.ones(WIDTH, np.float32)
        return [helper.make_node(operator, [given, constant], [wanted], name=wanted, epsilon=argument)]
    if operator in NORMALIZING:
        return normalization(operator, argument, given, wanted, named)
    named[constant] = argument
    if operator == "Where":
        named[f"{wanted}/seen"] = np.arange(WIDTH) % 2 == 0
        return [helper.make_node(operator, [f"{wanted}/seen", given, constant], [wanted], name=wanted)]
    return [helper.make_node(operator, [given, constant], [wanted], name=wanted)]


def normalization(form: str, epsilon: float, given: str, wanted: str, named: dict[str, Any]) -> list[onnx.NodeProto]:
    named.update({f"{wanted}/e": np.float32(epsilon), f"{wanted}/axis": np.array([1])})
    inner = [f"{wanted}/{number}" for number in range(4)]
    reduce = "ReduceL2" if form == "unit length" else "ReduceMean"
    squared = [] if form == "unit length" else [helper.make_node("Mul", [given, given], [inner[0]], name=inner[0])]
    return [
        *squared,
        helper.make_node(reduce, [inner[0] if squared else given, f"{wanted}/axis"], [inner[1]], name=inner[1]),
        helper.make_node("Max" if form == "unit length" else "Add", [inner[1], f"{wanted}/e"], [inner[2]], name=inner[2]),
        *([helper.make_node("Sqrt", [inner[2]], [inner[3]], name=inner[3])] if squared else []),
        helper.make_node("Div", [given, inner[3] if squared else inner[2]], [wanted], name=wanted),
    ]
