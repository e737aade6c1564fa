"""A pipeline: steps that run scripts, the files that they pass to each other, and the parameters of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from edgewright.contracts.models.registration import SourceFile, check_relative
from edgewright.contracts.names import nearest
from edgewright.contracts.pipelines.expressions import Reference, references
from edgewright.errors import BadInputError

FILES_REPOSITORY = "pipeline-files"
"""Repository of the registry that holds the files of steps."""
MAX_STEPS = 100
MAX_FILES = 1000
MAX_RETRIES = 100
MAX_TIMEOUT_S = 30 * 86400.0
KEPT_NAMES = ("outputs", "logs", "metrics.jsonl")
"""Names under which a job shows other files of a step."""

Value = str | int | float | bool

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A script, and what it gets and gives."""

    name: str
    script: str
    """Path of the script among `files`."""
    files: tuple[SourceFile, ...]
    """The folder of the script; its files are in the registry. A copy of it is the working directory."""
    arguments: tuple[str, ...] = ()
    """Command line of the script; may hold expressions."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Paths on the machine of the cloud, addresses, or outputs of earlier steps, by name."""
    outputs: tuple[str, ...] = ()
    """Names of folders that later steps and clients read."""
    after: tuple[str, ...] = ()
    """Steps that must have ended, besides those whose outputs it reads."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables; may hold expressions."""
    environment: str = ""
    """Name or name:version of an environment: its variables are set, its packages must be installed."""
    timeout_s: float = 86400.0
    retries: int = 0
    """Number of times that a step is run again from the beginning after a failure."""

    def __post_init__(self) -> None:
        _check_name(self.name, "step")
        if self.script not in {file.path for file in self.files}:
            raise BadInputError(f"step {self.name}: the script {self.script!r} must be among its files")
        if len(self.files) > MAX_FILES:
            raise BadInputError(f"step {self.name}: a step may have {MAX_FILES} files, not {len(self.files)}")
        check_relative(self.script)
        for name in (*self.inputs, *self.outputs):
            _check_name(name, f"input or output of step {self.name}")
        taken = [name for name in self.outputs if name in KEPT_NAMES or self.outputs.count(name) > 1]
        if taken:
            raise BadInputError(f"step {self.name}: an output must have a name of its own, not {taken[0]!r}")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise BadInputError(
                f"step {self.name}: a timeout must be over 0 and at most {MAX_TIMEOUT_S:.0f} s, not {self.timeout_s:g}"
            )
        if not 0 <= self.retries <= MAX_RETRIES:
            raise BadInputError(f"step {self.name}: retries must be 0 to {MAX_RETRIES}, not {self.retries}")
        for name, value in self.variables.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise BadInputError(f"step {self.name}: a variable must have a name of letters, digits and _, not {name[:64]!r}")
        if any("\0" in argument for argument in self.arguments):
            raise BadInputError(f"step {self.name}: an argument must have no NUL character")

    def texts(self) -> Iterator[str]:
        """Yield all texts that may hold expressions, but those of the inputs."""
        yield from self.arguments
        yield from self.variables.values()

    def needs(self) -> frozenset[str]:
        """Return the names of the steps that must have ended before."""
        read = {reference.step for text in self.inputs.values() for reference in references(text) if reference.step}
        return frozenset(read | {*self.after})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Steps, and the parameters of a run with their defaults; the type of a default is that of the parameter."""

    steps: tuple[Step, ...]
    parameters: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < len(self.steps) <= MAX_STEPS:
            raise BadInputError(f"a pipeline must have 1 to {MAX_STEPS} steps, not {len(self.steps)}")
        names = [step.name for step in self.steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadInputError(f"the steps of a pipeline must have different names, but {twice[0]!r} is given twice")
        for name, value in self.parameters.items():
            _check_name(name, "parameter")
            _check_finite(name, value)
        for step in self.steps:
            _check_references(self, step)
        _check_order(self)

    def step(self, name: str) -> Step:
        """Return the step of a name."""
        return next(step for step in self.steps if step.name == name)

    def with_values(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the value of each parameter: the given one in the type of its default, else the default.

        A text is read as a number or as `true` or `false` where the parameter is one, since requests of Azure ML hold texts.

        Raises:
            BadInputError: a parameter is unknown, or a value has another type.
        """
        unknown = sorted(values.keys() - self.parameters.keys())
        if unknown:
            raise BadInputError(f"parameter {unknown[0][:64]!r} is unknown{nearest(unknown[0], self.parameters)}")
        return {name: _converted(name, values.get(name, default), default) for name, default in self.parameters.items()}


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInputError(f"the name of a {what} must be letters, digits, _ and -, at most 64, not {name[:80]!r}")


def _check_references(pipeline: Pipeline, step: Step) -> None:
    """Check that all names exist to which the expressions of a step refer."""
    for text in step.texts():
        for reference in references(text):
            if reference.step:
                raise BadInputError(f"step {step.name}: an output of step {reference.step} must be an input: name it in 'inputs'")
            names: dict[str, Iterable[str]] = {
                "parameters": pipeline.parameters,
                "inputs": step.inputs,
                "outputs": step.outputs,
            }
            known = names[reference.kind]
            if reference.name not in set(known):
                _refuse(step, reference, nearest(reference.name, known))
    outputs = {each.name: each.outputs for each in pipeline.steps}
    for text in step.inputs.values():
        for reference in references(text):
            if reference.kind == "parameters" and reference.name not in pipeline.parameters:
                _refuse(step, reference, nearest(reference.name, pipeline.parameters))
            if reference.kind != "parameters" and not reference.step:
                raise BadInputError(f"step {step.name}: an input must not refer to its own {reference.kind}")
            if reference.step and reference.name not in outputs.get(reference.step, ()):
                _refuse(step, reference, "")
    for name in step.after:
        if name not in outputs:
            hint = nearest(name, outputs)
            raise BadInputError(f"step {step.name}: 'after' must name a step, but there is no step {name!r}{hint}")


def _refuse(step: Step, reference: Reference, hint: str) -> None:
    where = f"step {reference.step} has no output" if reference.step else f"there is no {reference.kind.removesuffix('s')}"
    raise BadInputError(f"step {step.name}: {where} {reference.name!r}{hint}")


def _check_order(pipeline: Pipeline) -> None:
    try:
        TopologicalSorter({step.name: step.needs() for step in pipeline.steps}).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise BadInputError(f"the steps of a pipeline must not wait for each other, but they do: {circle}") from error


def _check_finite(name: str, value: Value) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInputError(f"parameter {name} must be a finite number, not {value}")


def _converted(name: str, value: Value, default: Value) -> Value:
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if isinstance(value, str) and kind is not str:
        value = _read(value, kind)
    if kind is str and not isinstance(value, str | bool):
        value = str(value)
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise BadInputError(f"parameter {name} must be {words[kind]}, as its default {default!r}, not {value!r}")
    _check_finite(name, value)
    return value


def _read(text: str, kind: type[Value]) -> Value:
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text
