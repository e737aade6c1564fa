"""Declare what `run` takes and returns: from a sample, the server derives checks, conversions and the service's documents.

    @input_schema("data", NumpyParameterType(np.zeros((1, 64), np.float32)))
    @input_schema("threshold", StandardPythonParameterType(0.5), optional=True)
    @output_schema(NumpyParameterType(np.zeros(1)))
    def run(data, threshold=0.5): ...

A request is then a JSON object with one field per parameter. A value that does not fit is answered with 400: the field, the
expected and the received are named. Signatures are those of Azure's inference-schema, so that old scripts run unchanged.

    @batched(max_batch_size=32)
    def run(inputs):
        return model.predict([json.loads(each)["data"] for each in inputs])

A batched `run` takes the requests that wait for the worker as one list, and returns the list of their results. A lone request is
a list of one, and no request waits for others. Of declared parameters, each argument is a list with one value per request.
MLServer, BentoML and Ray Serve call this adaptive or dynamic batching, and name the limit `max_batch_size`, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgewright.errors import BadInputError, SamplesError
from edgewright.serving.scripts.parameter_types import ParameterType

_MARK = "declared_schema"
_BATCH_MARK = "max_batch_size"
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


def batched(max_batch_size: int = 32) -> Callable[[Function], Function]:
    """Pass up to `max_batch_size` waiting requests to one call of the decorated `run`.

    Raises:
        BadInputError: the size is not positive, or `run` is a coroutine function.
    """
    if not isinstance(max_batch_size, int) or max_batch_size < 1:
        raise BadInputError(f"max_batch_size must be an integer of at least 1, not {max_batch_size!r}")

    def declare(function: Function) -> Function:
        if inspect.iscoroutinefunction(function):
            raise BadInputError(f"{function.__name__} must be a plain function to be batched, not async def")
        setattr(function, _BATCH_MARK, max_batch_size)
        return function

    return declare


def max_batch_size_of(function: object) -> int:
    """Return the number of requests that `run` takes at once; 0 if it takes one and no list."""
    return int(getattr(function, _BATCH_MARK, 0))


def schema_of(function: object) -> DeclaredSchema | None:
    """Return what the decorators of a function declared; None without any."""
    found: DeclaredSchema | None = getattr(function, _MARK, None)
    return found


def _marked(function: Function, schema: DeclaredSchema) -> Function:
    setattr(function, _MARK, schema)
    return function
