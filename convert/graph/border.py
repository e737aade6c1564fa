"""Change the inputs and outputs of a graph into those of a device: named arrays whose first axis counts the samples.

constants      an input that is the same for all samples (a sampling rate) becomes a constant of the graph
batch axes     an input whose batch is another axis (a state [layers, batch, units]) is transposed on its way in, an output on its
               way out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.graph.emit import BATCH_AXIS
from convert.graph.shapes import infer_again
from edgewright.contracts.names import nearest
from edgewright.errors import BadInputError, ModelError, NotFoundError

_Array = npt.NDArray[Any]

_TRUTH = {"true": True, "false": False}


def set_inputs(model: ir.Model, constants: Mapping[str, npt.ArrayLike]) -> dict[str, _Array]:
    """Replace inputs by constants; return the constants as the source takes them.

    Args:
        model: changed in place.
        constants: value by input: a number, an array, or text such as `16000` or `0.5,0.25`. One number fills the whole input.

    Raises:
        NotFoundError: no input has that name.
        BadInputError: a value does not fit the input, or no input would remain.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    _check_names("--set", constants, inputs, "input")
    if constants and len(constants) == len(inputs):
        raise BadInputError(f"--set must leave one input for the samples, but it sets all of them: {', '.join(inputs)}")
    arrays = {name: _constant(name, inputs[name], value) for name, value in constants.items()}
    for name, array in arrays.items():
        value = inputs[name]
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        model.graph.register_initializer(value)
    return arrays


def move_batch_axes(model: ir.Model, axes: Mapping[str, int]) -> dict[str, int]:
    """Transpose inputs and outputs so that their first axis counts the samples; return the axis in the source, by name.

    Args:
        model: changed in place.
        axes: batch axis by name, as the source has it. The axes of outputs that are not named follow from those of the inputs.

    Raises:
        NotFoundError: no input or output has that name.
        BadInputError: the input or output has no such axis.
        ModelError: the batch axis of an output cannot be found, and is not named.
    """
    if not axes:
        return {}
    graph = model.graph
    ends = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    _check_names("--batch-axis", axes, ends, "input or output")
    placed = {name: _axis(name, ends[name], axis) for name, axis in axes.items()}
    output_names = [str(value.name) for value in graph.outputs]
    for place, value in enumerate(list(graph.inputs)):
        if placed.get(str(value.name)):
            _move_input(graph, place, placed[str(value.name)])
    placed |= _output_axes(model, placed)
    for place, name in enumerate(output_names):
        if placed[name]:
            _move_output(graph, place, placed[name], name)
    return placed


def _check_names(option: str, given: Iterable[str], ends: Mapping[str, ir.Value], role: str) -> None:
    for name in given:
        if name not in ends:
            raise NotFoundError(f"{option} {name}: the model has no {role} {name!r}{nearest(name, ends)}")


def _constant(name: str, value: ir.Value, given: npt.ArrayLike) -> _Array:
    """Return a value as an array with the dtype and shape of an input."""
    if value.dtype is None:
        raise ModelError(f"input {name} must have a known type")
    dtype = np.dtype(value.dtype.numpy())
    try:
        raw = np.asarray(_parsed(given, dtype) if isinstance(given, str) else given)
        array = raw.astype(dtype)
        same = dtype.kind not in "iub" or np.array_equal(array, raw.astype(np.float64))
        if raw.dtype.kind == "f" and dtype.kind == "f":
            same = bool((np.isfinite(array) | ~np.isfinite(raw)).all())
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInputError(f"--set {name} must be {dtype}, as the input, not {given!r}") from error
    if not same:
        raise BadInputError(f"--set {name} must be {dtype}, as the input, not {given!r}")
    shape = _shape_for(array, value)
    try:
        return np.array(np.broadcast_to(array.reshape(()) if array.size == 1 else array, shape))
    except ValueError as error:
        raise BadInputError(
            f"--set {name} must have the shape {list(shape)} of the input, or one number, not {list(array.shape)}"
        ) from error


def _parsed(text: str, dtype: np.dtype[Any]) -> _Array:
    parts = [part.strip() for part in text.split(",")]
    if dtype.kind == "O":
        array = np.array(parts, object)
    elif dtype.kind in "iu":
        array = np.array([int(part, 0) for part in parts])
    else:
        array = np.array([_TRUTH.get(part.lower(), part) for part in parts], object).astype(np.float64)
    return array.reshape(()) if len(parts) == 1 else array


def _shape_for(array: _Array, value: ir.Value) -> tuple[int, ...]:
    """Return the shape of an input; a dynamic axis has the size that the array has there, or one."""
    sizes = () if value.shape is None else tuple(value.shape)
    own = (1,) * (len(sizes) - array.ndim) + array.shape
    if value.shape is None or len(own) > len(sizes):
        return array.shape if value.shape is None else tuple(size if isinstance(size, int) else 1 for size in sizes)
    return tuple(size if isinstance(size, int) else here for size, here in zip(sizes, own, strict=True))


def _axis(name: str, value: ir.Value, axis: int) -> int:
    if value.shape is None:
        raise ModelError(f"{name} must have a known number of axes: export the model with shapes")
    count = len(value.shape)
    if not -count <= axis < count:
        raise BadInputError(f"--batch-axis {name}={axis}: {name} has {count} axes, so the axis must be between 0 and {count - 1}")
    return axis % count


def _move_input(graph: ir.Graph, place: int, axis: int) -> None:
    own = graph.inputs[place]
    name, sizes = str(own.name), list(own.shape or ())
    moved = ir.Value(name=name, type=own.type, shape=ir.Shape([sizes[axis], *sizes[:axis], *sizes[axis + 1 :]]))
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(sizes))]
    node = ir.node("Transpose", [moved], attributes={"perm": back}, name=f"{name}/batch_axis")
    inner = node.outputs[0]
    inner.name, inner.type, inner.shape = f"{name}/batch_axis", own.type, own.shape
    graph.inputs[place] = moved
    own.replace_all_uses_with(inner, replace_graph_outputs=True)
    _prepend(graph, node)


def _prepend(graph: ir.Graph, node: ir.Node) -> None:
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def _move_output(graph: ir.Graph, place: int, axis: int, name: str) -> None:
    own = graph.outputs[place]
    sizes = list(own.shape or ())
    forward = [axis, *(other for other in range(len(sizes)) if other != axis)]
    node = ir.node("Transpose", [own], attributes={"perm": forward}, name=f"{name}/first_axis")
    if own.name == name:
        own.name = f"{name}/first_axis"
    moved = node.outputs[0]
    moved.name, moved.type, moved.shape = name, own.type, ir.Shape([sizes[other] for other in forward])
    graph.outputs[place] = moved
    graph.append(node)


def _output_axes(model: ir.Model, given: Mapping[str, int]) -> dict[str, int]:
    """Return the batch axis of every output."""
    batches = [value.shape[0] for value in model.graph.inputs if value.shape is not None and len(value.shape)]
    sizes = [size for size in batches if isinstance(size, int)]
    if not sizes:
        _infer_from_batch(model)
    batch = max(sizes) if sizes else BATCH_AXIS
    return {str(value.name): _output_axis(value, batch, given) for value in model.graph.outputs}


def _infer_from_batch(model: ir.Model) -> None:
    """Give the first axis of every input one name, and infer the shapes that follow."""
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([BATCH_AXIS, *value.shape[1:]])
    infer_again(model)


def _output_axis(value: ir.Value, batch: int | str, given: Mapping[str, int]) -> int:
    name = str(value.name)
    if name in given:
        return given[name]
    sizes = [] if value.shape is None else [size if isinstance(size, int) else str(size.value) for size in value.shape]
    axes = [axis for axis, size in enumerate(sizes) if size == batch]
    axes = axes or [axis for axis, size in enumerate(sizes) if not isinstance(size, int) and not isinstance(batch, int)]
    if 0 in axes or len(axes) == 1:
        return min(axes)
    raise ModelError(
        f"the batch axis of output {name} [{', '.join(map(str, sizes))}] must be named, because it cannot be found: "
        f"add --batch-axis {name}=AXIS"
    )
