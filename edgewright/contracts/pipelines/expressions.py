"""Expressions in the arguments, inputs and variables of a step, in the notation of Azure ML's CLI v2.

    ${{parameters.NAME}}             value of a parameter of the pipeline
    ${{inputs.NAME}}                 path of an input of this step
    ${{outputs.NAME}}                folder of an output of this step
    ${{steps.STEP.outputs.NAME}}     folder of an output of an earlier step; as an input only

Source of the notation: https://learn.microsoft.com/azure/machine-learning/concept-expressions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgewright.errors import BadInputError

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
_REFERENCE = re.compile(rf"(parameters|inputs|outputs)\.({_NAME})|steps\.({_NAME})\.outputs\.({_NAME})")


@dataclass(frozen=True, slots=True)
class Reference:
    """The name that an expression refers to."""

    kind: str
    """`parameters`, `inputs` or `outputs`."""
    name: str
    step: str = ""
    """The step that has the output; empty for the step of the expression."""


def references(text: str) -> Iterator[Reference]:
    """Yield what a text refers to.

    Raises:
        BadInputError: an expression has another form.
    """
    for match in _EXPRESSION.finditer(text):
        yield _parsed(match[1])


def evaluate(text: str, value_of: Callable[[Reference], str]) -> str:
    """Return a text with the values of its expressions."""
    return _EXPRESSION.sub(lambda match: value_of(_parsed(match[1])), text)


def _parsed(inner: str) -> Reference:
    match = _REFERENCE.fullmatch(inner.strip())
    if match is None:
        raise BadInputError(
            "an expression must be ${{parameters.NAME}}, ${{inputs.NAME}}, ${{outputs.NAME}} or ${{steps.STEP.outputs.NAME}}, "
            f"not {'${{' + inner[:64] + '}}'!r}"
        )
    if match[1]:
        return Reference(match[1], match[2])
    return Reference("outputs", match[4], match[3])
