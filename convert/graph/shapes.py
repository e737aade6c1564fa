"""Set shapes of a graph's inputs as the user asks, and check them against the hardware profiles.

The batch axis stays dynamic unless the user gives it a number; a name makes a fixed axis dynamic. Other dynamic axes (images of
any size) run on onnxruntime, but an NPU program is compiled for one size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from convert.graph.emit import BATCH_AXIS
from edgewright.contracts.names import nearest
from edgewright.errors import BadInputError, ModelError, NotFoundError
from edgewright.graphs.shape_inference import infer_shapes
from hardware_profiles.hardware_profile import HardwareProfile

_SHAPE = re.compile(r"(?:(?P<name>.+)=)?(?P<sizes>(?:-1|\d+|[^\W\dx][^\Wx]*)(?:x(?:-1|\d+|[^\W\dx][^\Wx]*))*)")
_EXAMPLE_SIZE = 224

Shape = tuple[int | str, ...]


def fix_shapes(model: ir.Model, shapes: Sequence[str], batch_axes: Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Set input shapes from strings such as `image=1x224x224x3`, or `image=Nx224x224x3` for a dynamic batch.

    Args:
        model: changed in place.
        shapes: the strings.
        batch_axes: batch axis of inputs where it is not the first.

    Returns:
        The shapes that replace fixed sizes of the source, by input: the source must be run with them, too.

    Raises:
        BadInputError: a text cannot be parsed, or has another number of axes than the input.
        NotFoundError: no input has that name.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    replaced: dict[str, Shape] = {}
    for text in shapes:
        name, given = parsed_shape(text, inputs)
        own = tuple(inputs[name].shape or ())
        shape = _merged(name, own, given, text, (batch_axes or {}).get(name, 0))
        if any(isinstance(before, int) and before != after for before, after in zip(own, shape, strict=True)):
            replaced[name] = shape
        inputs[name].shape = ir.Shape(shape)
    if replaced:
        infer_again(model)
    elif shapes:
        infer_shapes(model)
    return replaced


def infer_again(model: ir.Model) -> None:
    """Infer all shapes from those of the inputs; outputs keep at least their number of axes."""
    ranks = {value: len(value.shape) for value in model.graph.outputs if value.shape is not None}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    infer_shapes(model)
    for value, rank in ranks.items():
        if value.shape is None:
            value.shape = ir.Shape([f"{value.name}_axis{axis}" for axis in range(rank)])


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


def parsed_shape(text: str, inputs: Collection[str]) -> tuple[str, Shape]:
    """Return the input that a text such as `image=1x224x224x3` names, and its sizes; dynamic axes have names.

    Raises:
        BadInputError: the text cannot be parsed, or names none of several inputs.
        NotFoundError: no input has that name.
    """
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


def _merged(name: str, own: Shape, given: Shape, text: str, batch_axis: int) -> Shape:
    """Return the given sizes; a name leaves a dynamic axis as the model has it, and makes a fixed one dynamic."""
    if len(own) != len(given):
        raise BadInputError(f"--shape {text}: input {name} has {len(own)} axes, {_written(own)}, not {len(given)}")
    if 0 in given:
        raise BadInputError(f"--shape {text}: axis {given.index(0)} of input {name} must be 1 or more, not 0")
    shape: list[int | str] = []
    for axis, (own_size, size) in enumerate(zip(own, given, strict=True)):
        if isinstance(size, int) or not isinstance(own_size, int):
            shape.append(size if isinstance(size, int) else own_size)
        else:
            shape.append(BATCH_AXIS if axis == batch_axis else f"{name}_axis{axis}")
    return tuple(shape)


def _dynamic_axes(value: ir.Value) -> str:
    if value.shape is None:
        return "shape"
    dynamic = [f"axis {axis} ({size})" for axis, size in enumerate(value.shape) if axis and not isinstance(size, int)]
    return " and ".join(dynamic)


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape))
