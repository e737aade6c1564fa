"""One-operator models with generated attribute values, in every operator set in which they are valid.

ONNX's own test vectors have few combinations of attributes. Each table entry below is an operator, the shape of its first input,
its other inputs, and the values of each attribute; the models are all combinations, or a random choice of them. A combination
that ONNX's checker or onnxruntime rejects in a set does not exist there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from tests.support.operator_vectors import Array, Form

_LIMIT = 60
"""Largest number of combinations of one entry in one operator set."""

Values = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An operator with the values of its attributes and constant inputs; None leaves one out."""

    operator: str
    shape: tuple[int, ...]
    opsets: range = range(7, 25)
    attributes: Mapping[str, Values] = field(default_factory=dict)
    constants: Mapping[str, Values] = field(default_factory=dict)
    """Inputs after the first, in order."""
    outputs: int = 1

    def combinations(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield attributes and constants: all combinations, or a random choice."""
        names = [*self.attributes, *self.constants]
        every = list(itertools.product(*self.attributes.values(), *self.constants.values()))
        if len(every) > _LIMIT:
            every = [every[place] for place in np.random.default_rng(0).choice(len(every), _LIMIT, replace=False)]
        for values in every:
            chosen = dict(zip(names, values, strict=True))
            yield (
                {name: chosen[name] for name in self.attributes if chosen[name] is not None},
                {name: chosen[name] for name in self.constants},
            )


def generated_forms(families: Sequence[Family]) -> Iterator[Form]:
    """Yield every valid model of every family, each once per version of its operator."""
    for family in families:
        versions: set[int] = set()
        for opset in family.opsets:
            if not defs.has(family.operator, opset, ""):
                continue
            version = defs.get_schema(family.operator, opset, "").since_version
            if version in versions:
                continue
            versions.add(version)
            for number, (attributes, constants) in enumerate(family.combinations()):
                form = _form(family, opset, f"generated {number} {attributes} {_listed(constants)}", attributes, constants)
                if form is not None:
                    yield form


def _listed(constants: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else np.asarray(value).ravel()[:8].tolist() for name, value in constants.items()}


def _form(family: Family, opset: int, name: str, attributes: dict[str, Any], constants: dict[str, Any]) -> Form | None:
    schema = defs.get_schema(family.operator, opset, "")
    known = {key: value for key, value in attributes.items() if key in schema.attributes}
    if len(known) < len(attributes):
        return None
    given = [key if value is not None else "" for key, value in constants.items()]
    while given and not given[-1]:
        given.pop()
    node = helper.make_node(family.operator, ["x", *given], [f"y{place}" for place in range(family.outputs)], **known)
    values: dict[str, Array] = {key: np.asarray(value) for key, value in constants.items() if value is not None}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *family.shape[1:]])],
        [onnx.helper.make_empty_tensor_value_info(output) for output in node.output],
        [numpy_helper.from_array(value, key) for key, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        typed = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
        del model.graph.output[:]
        model.graph.output.extend(typed[output] for output in node.output)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, KeyError):
        return None
    generator = np.random.default_rng(1)
    return Form(name, family.operator, opset, model, {"x": generator.normal(size=family.shape).astype(np.float32)})
