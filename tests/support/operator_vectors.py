"""ONNX's own test vectors, written in the form of every operator set in which their operator exists.

A form is the vector's model with the number of an older set. Where the older operator has an attribute instead of an input,
the input's value becomes that attribute. A form that ONNX's checker rejects does not exist.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
from onnx import defs, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException

Array = npt.NDArray[Any]
_RANDOM = ("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial")


@dataclass(frozen=True, slots=True)
class Form:
    """A vector in one operator set, with the inputs that are left."""

    name: str
    operator: str
    opset: int
    model: onnx.ModelProto
    inputs: dict[str, Array]

    def __str__(self) -> str:
        return f"{self.operator} {self.opset} {self.name}"


def forms(opsets: range) -> Iterator[Form]:
    """Yield each vector in the oldest set of every version of its operator."""
    for case in _cases():
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type in _RANDOM or not _has_tensors_only(case):
            continue
        found = (_form(case, opset) for opset in _oldest_sets(nodes[0].op_type, opsets))
        yield from (form for form in found if form is not None)


def _cases() -> Iterable[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some vectors overflow on purpose
        cases: Any = collect_testcases(None)
    return [case for case in cases if not case.model.functions]


def outputs_of(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    """Run a model on onnxruntime, or on ONNX's reference evaluator where onnxruntime has no kernel."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        outputs: Any = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    except (NotImplemented, Fail, InvalidGraph, InvalidArgument, RuntimeException):
        return by_definition(model, inputs)
    return [np.asarray(output) for output in outputs]


def by_definition(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    """Run a model on ONNX's reference evaluator; some results of onnxruntime's Attention differ from it."""
    outputs: Any = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    return [np.asarray(output) for output in outputs]


def is_valid(form: Form) -> bool:
    """Return whether a runtime or ONNX's reference evaluator can run a form: generated attributes may contradict each other."""
    try:
        outputs_of(form.model, form.inputs)
    except Exception:  # noqa: BLE001 - the reference evaluator fails in many ways
        return False
    return True


def are_equal(actual: list[Array], expected: list[Array]) -> bool:
    """Return whether outputs have the same types and shapes, and the same contents up to rounding."""
    return len(actual) == len(expected) and all(_is_equal(one, other) for one, other in zip(actual, expected, strict=True))


def _is_equal(actual: Array, expected: Array) -> bool:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if actual.dtype.kind not in "fc":
        return bool((actual == expected).all())
    return bool(np.allclose(actual, expected, rtol=1e-3, atol=1e-3 if actual.dtype == np.float16 else 1e-6, equal_nan=True))


def _has_tensors_only(case: Any) -> bool:
    inputs, outputs = case.data_sets[0]
    return all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *outputs))


def _oldest_sets(operator: str, opsets: range) -> Iterator[int]:
    """Yield the oldest set of each version of an operator."""
    seen: set[int] = set()
    for opset in opsets:
        version = defs.get_schema(operator, opset, "").since_version if defs.has(operator, opset, "") else None
        if version is not None and version not in seen:
            seen.add(version)
            yield opset


def _form(case: Any, opset: int) -> Form | None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = 8 if opset < 21 else 10
    own = next(entry.version for entry in model.opset_import if not entry.domain)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    node = model.graph.node[0]
    inputs = dict(zip((value.name for value in model.graph.input), case.data_sets[0][0], strict=True))
    formal = [one.name for one in defs.get_schema(node.op_type, own, "").inputs]
    schema = defs.get_schema(node.op_type, opset, "")
    for index in range(len(schema.inputs), min(len(node.input), len(formal))):
        if formal[index] in schema.attributes and node.input[index] in inputs:
            _make_attribute(model, index, schema.attributes[formal[index]], inputs)
    while node.input and not node.input[-1]:
        node.input.pop()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return Form(case.name, node.op_type, opset, model, {name: np.asarray(array) for name, array in inputs.items()})


def _make_attribute(model: onnx.ModelProto, index: int, attribute: Any, inputs: dict[str, Array]) -> None:
    """Replace an input of the only node by an attribute with its value."""
    node = model.graph.node[0]
    name, node.input[index] = node.input[index], ""
    values = np.asarray(inputs.pop(name)).reshape(-1).astype(np.float32 if "FLOAT" in attribute.type.name else np.int64).tolist()
    value = values if attribute.type.name.endswith("S") else values[0]
    node.attribute.append(helper.make_attribute(attribute.name, value, attr_type=attribute.type.value))
    kept = [given for given in model.graph.input if given.name != name]
    del model.graph.input[:]
    model.graph.input.extend(kept)
