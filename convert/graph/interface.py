"""Interface of a graph: names, types, shapes and axes of its inputs and outputs, and the labels of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import BadInputError, ModelError

_CHANNEL_COUNTS = (1, 3, 4)
"""Grey, RGB, RGBA."""


def specs_of(values: Iterable[ir.Value], batch_axes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """Return the specs of inputs or outputs; raise `ModelError` if a shape or type is not known."""
    return tuple(_spec(value, batch_axes.get(str(value.name), 0)) for value in values)


def _spec(value: ir.Value, batch_axis: int) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ModelError(f"{value.name} must have a known shape and type; give the model's inputs and outputs fixed shapes")
    free = ("N", *(f"{value.name}_axis{axis}" for axis in range(1, len(value.shape))))
    shape = tuple(
        size if isinstance(size, int) else str(size.value or name) for size, name in zip(value.shape, free, strict=False)
    )
    return TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, shape=shape, axes=_axes(shape), batch_axis=batch_axis)


def _axes(shape: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the axis names of an image, inferred from which axis has 1, 3 or 4 entries."""
    if len(shape) != 4:
        return ()
    channels_first = shape[1] in _CHANNEL_COUNTS and shape[3] not in _CHANNEL_COUNTS
    return ("batch", "channels", "height", "width") if channels_first else ("batch", "height", "width", "channels")


def check_sample_axes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that inputs and outputs have axes, and that the first axes of the inputs can count the same samples.

    Raises:
        ModelError: they do not; the message names the option that helps.
    """
    for spec in inputs:
        if not spec.shape:
            raise ModelError(
                f"every input must have an axis that counts samples, but {spec.name} has no axes: "
                f"make it a constant of the graph with --set {spec.name}=VALUE"
            )
    for spec in (*inputs, *outputs):
        if 0 in spec.shape:
            raise ModelError(f"every axis must have 1 or more entries, but axis {spec.shape.index(0)} of {spec} has none")
    for spec in outputs:
        if not spec.shape:
            raise ModelError(
                f"every output must have an axis that counts samples, but {spec.name} has no axes: export the model without it, "
                "or with a first axis for the samples"
            )
    firsts = {spec.shape[0] for spec in inputs}
    sizes = {size for size in firsts if isinstance(size, int)}
    if len(sizes) > 1 or (len(firsts) > 1 and max(sizes, default=1) > 1):
        listed = ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in inputs)
        name, axis = _batch_elsewhere(inputs)
        raise ModelError(
            f"the first axes of the inputs must count the same samples, but they differ in {listed}: name the axis that does "
            f"with --batch-axis {name}={axis}, or make an input a constant with --set"
        )


def _batch_elsewhere(inputs: Sequence[TensorSpec]) -> tuple[str, int | str]:
    """Return the input, and its axis, that most likely holds the batch of the others."""
    for spec in inputs:
        others = [other.shape[0] for other in inputs if other is not spec]
        axes = [axis for axis, size in enumerate(spec.shape) if axis and size in others]
        dynamic = [axis for axis, size in enumerate(spec.shape) if axis and isinstance(size, str)]
        if spec.shape[0] not in others and isinstance(spec.shape[0], int) and (axes or dynamic):
            return spec.name, (axes or dynamic)[0]
    return max(inputs, key=lambda spec: len(spec.shape)).name, "AXIS"


def checked_labels(labels: tuple[str, ...], outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the labels; raise `BadInputError` unless an output of scores has one class for each."""
    scores = [output for output in outputs if output.dtype.startswith("float")]
    if not labels or not scores or any(has_classes(output, len(labels)) for output in scores):
        return labels
    classes = scores[0].shape[-1]
    raise BadInputError(f"there must be one label per class: output {scores[0].name} has {classes}, but {len(labels)} were given")


def has_classes(output: TensorSpec, count: int) -> bool:
    """Return True if an output of scores can have `count` classes: on its last axis, or for maps on the first after the batch."""
    axes = (output.shape[-1],) if len(output.shape) < 3 else (output.shape[1], output.shape[-1])
    sizes = [size for size in axes if isinstance(size, int)]
    return not sizes or any(max(size, 2) == count for size in sizes)  # one column: the probability of class 1 of 2
