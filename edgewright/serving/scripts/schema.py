"""Declare what `run` takes and returns: from a sample, the server derives checks, conversions and the service's documents.

    @input_schema("data", NumpyParameterType(np.zeros((1, 64), np.float32)))
    @input_schema("threshold", StandardPythonParameterType(0.5), optional=True)
    @output_schema(NumpyParameterType(np.zeros(1)))
    def run(data, threshold=0.5): ...

A request is then a JSON object with one field per parameter. A value that does not fit is answered with 400: the field, the
expected and the received are named. Signatures are those of Azure's inference-schema, so that old scripts run unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgewright.errors import BadInputError, SamplesError
from edgewright.serving.scripts.parameter_types import ParameterType

_MARK = "declared_schema"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class DeclaredSchema:
    """Inputs and output that the decorators of a `run` declared."""

    inputs: dict[str, ParameterType] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    output: ParameterType | None = None

    def arguments(self, document: Any) -> dict[str, Any]:
        """Convert the JSON object of a request to the arguments of `run`.

        Raises:
            SamplesError: a field is missing, unknown, or does not fit.
        """
        expected = ", ".join(self.inputs)
        if not isinstance(document, dict):
            raise SamplesError(f"the body must be a JSON object with the fields {expected}")
        unknown = [name for name in document if name not in self.inputs]
        if unknown:
            raise SamplesError(f"the fields of the body must be {expected}, but {unknown[0]} was received")
        missing = [name for name in self.inputs if name not in document and name not in self.optional]
        if missing:
            raise SamplesError(f"the body must have the fields {expected}, but {missing[0]} is missing")
        return {name: self.inputs[name].to_python(value, name) for name, value in document.items()}

    def sample(self) -> dict[str, Any]:
        """Return the body of an example request."""
        return {name: kind.example() for name, kind in self.inputs.items()}


def input_schema(
    param_name: str,
    param_type: ParameterType,
    convert_to_provided_type: bool = True,
    optional: bool = False,
) -> Callable[[Function], Function]:
    """Declare one parameter of `run`; an `optional` one may be missing in a request."""
    del convert_to_provided_type  # values are always converted; the parameter exists for old scripts
    if not isinstance(param_type, ParameterType):
        raise BadInputError(f"the type of {param_name} must be a parameter type with a sample, not {type(param_type).__name__}")

    def declare(function: Function) -> Function:
        if param_name not in inspect.signature(function).parameters:
            raise BadInputError(f"input_schema names {param_name}, but {function.__name__} has no such parameter")
        schema = schema_of(function) or DeclaredSchema()
        inputs = {param_name: param_type, **schema.inputs}  # decorators apply from the last to the first
        names = (param_name, *schema.optional) if optional else schema.optional
        return _marked(function, DeclaredSchema(inputs, names, schema.output))

    return declare


def output_schema(output_type: ParameterType) -> Callable[[Function], Function]:
    """Declare the result of `run`, for the service's documents."""

    def declare(function: Function) -> Function:
        schema = schema_of(function) or DeclaredSchema()
        return _marked(function, DeclaredSchema(schema.inputs, schema.optional, output_type))

    return declare


def schema_of(function: object) -> DeclaredSchema | None:
    """Return what the decorators of a function declared; None without any."""
    found: DeclaredSchema | None = getattr(function, _MARK, None)
    return found


def _marked(function: Function, schema: DeclaredSchema) -> Function:
    setattr(function, _MARK, schema)
    return function
