"""ONNX's own test vectors, for every operator that a pass looks at: after all passes the graph still gives the expected outputs.

The vectors come with the `onnx` package (onnx.backend.test). Each is tried as it is, with everything but its first input known
(so that passes which fold weights have weights to fold), and with all of it known (so that it is computed once and for all).
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
"""Operators that compute shapes, and that are computed away when shapes are known."""


@functools.cache
def vectors() -> dict[str, list[Any]]:
    """Return ONNX's cases by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the vectors overflow on purpose
        cases = collect_testcases(None)
    found: dict[str, list[Any]] = {operator: [] for operator in (*TOUCHED, *OFTEN_KNOWN)}
    case: Any
    for case in cases:
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in found and _is_plain(case):
            found[case.model.graph.node[0].op_type].append(case)
    return found


def _is_plain(case: Any) -> bool:
    """Tell whether a case is of tensors alone, and the same on every run, which a Dropout in training is not."""
    inputs, outputs = case.data_sets[0]
    plain = all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *outputs))
    return plain and case.model.graph.node[0].domain == "" and "training" not in case.name


def simplified(case: Any, known: Iterable[int]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a case's graph after all passes, its inputs at the places `known` as weights, and what it is still to be given."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    proto.ir_version = 10
    arrays = dict(zip((value.name for value in proto.graph.input), case.data_sets[0][0], strict=True))
    weights = {list(arrays)[place] for place in known}
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
    """Let the operator's results be inner values, for passes leave the outputs of a graph alone."""
    for node in list(graph.node):
        ends = [name for name in node.output if name]
        node.output[:] = [f"{name}/inner" if name else "" for name in node.output]
        graph.node.extend(helper.make_node("Identity", [f"{name}/inner"], [name]) for name in ends)


def wrong_outputs(case: Any, known: Iterable[int]) -> list[str]:
    """Return the case's name where an output is not the expected one."""
    proto, given = simplified(case, known)
    found = onnx.reference.ReferenceEvaluator(proto).run(None, given)
    same = [
        _is_close(np.asarray(one), np.asarray(expected), case) for one, expected in zip(found, case.data_sets[0][1], strict=True)
    ]
    return [] if all(same) else [case.name]


def _is_close(found: npt.NDArray[Any], expected: npt.NDArray[Any], case: Any) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype.kind != "f":
        return bool((found == expected).all())
    return bool(np.allclose(found, expected, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True))


@pytest.mark.filterwarnings("ignore")  # NumPy's, of the vectors that overflow on purpose
@pytest.mark.parametrize("operator", TOUCHED)
def test_an_operator_that_a_pass_touches_gives_the_expected_outputs(operator: str) -> None:
    cases = vectors()[operator]
    assert cases
    assert [name for case in cases for name in wrong_outputs(case, [])] == []
    assert [name for case in cases for name in wrong_outputs(case, range(1, len(case.model.graph.input)))] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", [*TOUCHED, *OFTEN_KNOWN])
def test_an_operator_whose_inputs_are_known_is_computed_to_the_expected_outputs(operator: str) -> None:
    cases = vectors()[operator]
    assert cases
    assert [name for case in cases for name in wrong_outputs(case, range(len(case.model.graph.input)))] == []
