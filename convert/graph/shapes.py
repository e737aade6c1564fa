"""Fix shapes of a graph's inputs as the user asks, and check them against the hardware profiles.

The batch axis stays dynamic unless the user gives it a number. Other dynamic axes (images of any size) run on onnxruntime, but
an NPU program is compiled for one size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from edgewright.contracts.names import nearest
from edgewright.errors import BadInputError, ModelError, NotFoundError
from hardware_profiles.hardware_profile import HardwareProfile

_SHAPE = re.compile(r"(?:(?P<name>.+)=)?(?P<sizes>(?:-1|\d+|[^\W\dx][^\Wx]*)(?:x\d+)*)")
_EXAMPLE_SIZE = 224

Shape = tuple[int | str, ...]


def fix_shapes(model: ir.Model, shapes: Sequence[str]) -> None:
    """Set input shapes from strings such as `image=1x224x224x3`, or `image=Nx224x224x3` for a dynamic batch.

    Raises:
        BadInputError: a text cannot be parsed, or contradicts the model's shape.
        NotFoundError: no input has that name.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    for text in shapes:
        name, shape = _parsed(text, inputs)
        inputs[name].shape = ir.Shape(_merged(name, inputs[name], shape, text))
    if shapes:
        common.ShapeInferencePass(strict_mode=False)(model)


def check_shapes(model: ir.Model, profiles: Iterable[HardwareProfile]) -> None:
    """Check that only batch axes are dynamic, if a profile runs fixed shapes only.

    Raises:
        ModelError: another axis of an input or output is dynamic.
    """
    fixed_only = [profile.name for profile in profiles if profile.npu is not None]
    if not fixed_only:
        return
    for value in model.graph.inputs:
        dynamic = _dynamic_axes(value)
        if dynamic:
            example = "x".join(["N", *(str(size) if isinstance(size, int) else str(_EXAMPLE_SIZE) for size in value.shape[1:])])
            raise ModelError(
                f"{fixed_only[0]} runs fixed shapes only, but input {value.name} has a dynamic {dynamic}: "
                f"give each axis its size, as in --shape {value.name}={example}"
            )
    for value in model.graph.outputs:
        dynamic = _dynamic_axes(value)
        if dynamic:
            raise ModelError(
                f"{fixed_only[0]} runs fixed shapes only, but output {value.name} has a dynamic {dynamic}, "
                "whose size the model computes from its data: cut the model before that with --head-from or --outputs"
            )


def _parsed(text: str, inputs: dict[str, ir.Value]) -> tuple[str, Shape]:
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise BadInputError(f"--shape must be sizes after the input's name, as in image=1x224x224x3, not {text!r}")
    name = match["name"]
    if name is None and len(inputs) > 1:
        raise BadInputError(f"--shape {text} must name one of the inputs {', '.join(inputs)}, as in {next(iter(inputs))}={text}")
    if name is not None and name not in inputs:
        raise NotFoundError(f"--shape {text}: the model has no input {name!r}{nearest(name, inputs)}")
    sizes = tuple(int(size) if size.isdigit() else size for size in match["sizes"].split("x"))
    return name or next(iter(inputs)), sizes


def _merged(name: str, value: ir.Value, shape: Shape, text: str) -> Shape:
    """Return `shape` if the model's own shape allows it; the batch stays as the model has it unless it is a number."""
    own = tuple(value.shape)
    if len(own) != len(shape):
        raise BadInputError(f"--shape {text}: input {name} has {len(own)} axes, {_written(own)}, not {len(shape)}")
    for axis, (own_size, size) in enumerate(zip(own, shape, strict=True)):
        if size == 0:
            raise BadInputError(f"--shape {text}: axis {axis} of input {name} must be 1 or more, not 0")
        if isinstance(own_size, int) and own_size != size:
            raise BadInputError(f"--shape {text}: axis {axis} of input {name} must be {own_size}, as in the model, not {size}")
    return (own[0] if isinstance(shape[0], str) else shape[0], *shape[1:])


def _dynamic_axes(value: ir.Value) -> str:
    if value.shape is None:
        return "shape"
    dynamic = [f"axis {axis} ({size})" for axis, size in enumerate(value.shape) if axis and not isinstance(size, int)]
    return " and ".join(dynamic)


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape))
