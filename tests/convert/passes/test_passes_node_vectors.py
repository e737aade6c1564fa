"""ONNX's own test vectors, for every operator that a pass changes: the graph gives the expected outputs after all passes.

The vectors come with the `onnx` package (onnx.backend.test). Each runs unchanged, with all inputs but the
first constant (so that passes have weights to fold), and with all inputs constant (so that the operator is folded).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from convert.passes.simplify import simplify

TOUCHED = (
    *("Add", "BatchNormalization", "Constant", "Conv", "Dropout", "Flatten", "Gemm", "Identity", "MatMul", "Mul", "Pad"),
    *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Transpose"),
)
"""Operators that a pass removes, merges, moves or folds."""
OFTEN_KNOWN = (
    "Concat",
    "ConstantOfShape",
    "Expand",
    "Gather",
    "Range",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "Where",
)
"""Operators that compute shapes, and are folded if the shapes are constant."""


@functools.cache
def vectors() -> dict[str, list[Any]]:
    """Return ONNX's cases by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some vectors overflow on purpose
        collected = collect_testcases(None)
    cases: dict[str, list[Any]] = {operator: [] for operator in (*TOUCHED, *OFTEN_KNOWN)}
    case: Any
    for case in collected:
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in cases and _is_plain(case):
            cases[case.model.graph.node[0].op_type].append(case)
    return cases


def _is_plain(case: Any) -> bool:
    """Return whether a case has tensors only and a deterministic result (no Dropout in training)."""
    inputs, outputs = case.data_sets[0]
    plain = all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *outputs))
    return plain and case.model.graph.node[0].domain == "" and "training" not in case.name


def simplified(case: Any, constant: Iterable[int]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a case's graph after all passes, with the inputs at indices `constant` as weights, and its other inputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    proto.ir_version = 10
    arrays = dict(zip((value.name for value in proto.graph.input), case.data_sets[0][0], strict=True))
    weights = {list(arrays)[index] for index in constant}
    for name in weights:
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(arrays[name]), name))
    kept = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    _end_with_identities(proto.graph)
    model = ir.from_proto(proto)
    simplify(model, check_each=True)
    return ir.to_proto(model), {name: array for name, array in arrays.items() if name not in weights}


def _end_with_identities(graph: onnx.GraphProto) -> None:
    """Append Identity nodes, so that the operator's results are inner values, which passes may remove."""
    for node in list(graph.node):
        ends = [name for name in node.output if name]
        node.output[:] = [f"{name}/inner" if name else "" for name in node.output]
        graph.node.extend(helper.make_node("Identity", [f"{name}/inner"], [name]) for name in ends)


def wrong_outputs(case: Any, constant: Iterable[int]) -> list[str]:
    """Return the case's name if an output differs from the expected one."""
    proto, given = simplified(case, constant)
    actual = onnx.reference.ReferenceEvaluator(proto).run(None, given)
    same = [
        _is_close(np.asarray(output), np.asarray(expected), case)
        for output, expected in zip(actual, case.data_sets[0][1], strict=True)
    ]
    return [] if all(same) else [case.name]


def _is_close(actual: npt.NDArray[Any], expected: npt.NDArray[Any], case: Any) -> bool:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if expected.dtype.kind != "f":
        return bool((actual == expected).all())
    return bool(np.allclose(actual, expected, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True))


@pytest.mark.filterwarnings("ignore")  # NumPy warns about vectors that overflow on purpose
@pytest.mark.parametrize("operator", TOUCHED)
def test_an_operator_that_a_pass_changes_gives_the_expected_outputs(operator: str) -> None:
    cases = vectors()[operator]
    assert cases
    assert [name for case in cases for name in wrong_outputs(case, [])] == []
    assert [name for case in cases for name in wrong_outputs(case, range(1, len(case.model.graph.input)))] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", [*TOUCHED, *OFTEN_KNOWN])
def test_an_operator_with_constant_inputs_is_folded_to_the_expected_outputs(operator: str) -> None:
    cases = vectors()[operator]
    assert cases
    assert [name for case in cases for name in wrong_outputs(case, range(len(case.model.graph.input)))] == []
