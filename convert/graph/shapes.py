"""Shapes of a graph's inputs: fixed where the user says so, and asked for where a profile cannot do without.

A free batch axis is everyone's friend and stays free unless it is given a number. Other free axes (images of any size) run on
onnxruntime, but an NPU program is made for one size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from edgewright.contracts.names import nearest
from edgewright.errors import BadInputError, ModelError, NotFoundError
from hardware_profiles.hardware_profile import HardwareProfile

_SHAPE = re.compile(r"(?:(?P<name>.+)=)?(?P<sizes>(?:\d+|[^\W\dx][^\Wx]*)(?:x\d+)*)")
_PLACEHOLDER = 224

Shape = tuple[int | str, ...]


def fix_shapes(model: ir.Model, wanted: Sequence[str]) -> None:
    """Give inputs the shapes that the user wrote, `image=1x224x224x3` or, for a free batch, `image=Nx224x224x3`.

    Raises:
        BadInputError: a shape cannot be read, or contradicts the model's.
        NotFoundError: no input has that name.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    for text in wanted:
        name, shape = _parsed(text, inputs)
        inputs[name].shape = ir.Shape(_agreed(name, inputs[name], shape, text))
    if wanted:
        common.ShapeInferencePass(strict_mode=False)(model)


def check_shapes(model: ir.Model, profiles: Iterable[HardwareProfile]) -> None:
    """Raise `ModelError` where a profile runs fixed shapes only and an axis behind the batch is free."""
    fixed_only = [profile.name for profile in profiles if profile.npu is not None]
    if not fixed_only:
        return
    for value in model.graph.inputs:
        free = _free_axes(value)
        if free:
            example = "x".join(["N", *(str(size) if isinstance(size, int) else str(_PLACEHOLDER) for size in value.shape[1:])])
            raise ModelError(
                f"{fixed_only[0]} runs fixed shapes only, but input {value.name} has a free {free}: "
                f"give each axis its size, as in --shape {value.name}={example}"
            )
    for value in model.graph.outputs:
        free = _free_axes(value)
        if free:
            raise ModelError(
                f"{fixed_only[0]} runs fixed shapes only, but output {value.name} has a free {free}, "
                "whose size the model computes from its data: cut the model before that with --head-from or --outputs"
            )


def _parsed(text: str, inputs: dict[str, ir.Value]) -> tuple[str, Shape]:
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise BadInputError(f"--shape must be sizes after the input's name, as in image=1x224x224x3, not {text!r}")
    name = found["name"]
    if name is None and len(inputs) > 1:
        raise BadInputError(f"--shape {text} must name one of the inputs {', '.join(inputs)}, as in {next(iter(inputs))}={text}")
    if name is not None and name not in inputs:
        raise NotFoundError(f"--shape {text}: the model has no input {name!r}{nearest(name, inputs)}")
    sizes = tuple(int(size) if size.isdigit() else size for size in found["sizes"].split("x"))
    return name or next(iter(inputs)), sizes


def _agreed(name: str, value: ir.Value, wanted: Shape, text: str) -> Shape:
    """Return `wanted` where it says the same as the model's own shape, only more."""
    own = tuple(value.shape)
    if len(own) != len(wanted):
        raise BadInputError(f"--shape {text}: input {name} has {len(own)} axes, {_written(own)}, not {len(wanted)}")
    for place, (have, want) in enumerate(zip(own, wanted, strict=True)):
        if want == 0:
            raise BadInputError(f"--shape {text}: axis {place} of input {name} must be 1 or more, not 0")
        if isinstance(have, int) and have != want:
            raise BadInputError(f"--shape {text}: axis {place} of input {name} must be {have}, as the model has it, not {want}")
    return (own[0] if isinstance(wanted[0], str) else wanted[0], *wanted[1:])


def _free_axes(value: ir.Value) -> str:
    if value.shape is None:
        return "shape"
    free = [f"axis {place} ({size})" for place, size in enumerate(value.shape) if place and not isinstance(size, int)]
    return " and ".join(free)


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape))
