"""Interface of a graph: names, types, shapes and axes of its inputs and outputs, and the labels of its classes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import BadInputError, ModelError

_CHANNEL_COUNTS = (1, 3, 4)
"""Grey, RGB, RGBA."""


def specs_of(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return the specs of inputs or outputs; raise `ModelError` if a shape or type is not known."""
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ModelError(f"{value.name} must have a known shape and type; give the model's inputs and outputs fixed shapes")
    free = ("N", *(f"{value.name}_axis{axis}" for axis in range(1, len(value.shape))))
    shape = tuple(
        size if isinstance(size, int) else str(size.value or name) for size, name in zip(value.shape, free, strict=False)
    )
    return TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, shape=shape, axes=_axes(shape))


def _axes(shape: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the axis names of an image, inferred from which axis has 1, 3 or 4 entries."""
    if len(shape) != 4:
        return ()
    channels_first = shape[1] in _CHANNEL_COUNTS and shape[3] not in _CHANNEL_COUNTS
    return ("batch", "channels", "height", "width") if channels_first else ("batch", "height", "width", "channels")


def check_sample_axes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Check that no input or output is a scalar, which cannot hold one value per sample."""
    for role, specs in (("input", inputs), ("output", outputs)):
        scalar = next((spec.name for spec in specs if not spec.shape), None)
        if scalar is not None:
            raise ModelError(
                f"every {role} must have an axis that counts samples, but {scalar} has no axes: export the model without it, "
                "or with a first axis for the samples"
            )


def checked_labels(labels: tuple[str, ...], output: TensorSpec) -> tuple[str, ...]:
    """Return the labels; raise `BadInputError` unless there is one per class of the output."""
    classes = output.shape[-1]
    if labels and isinstance(classes, int) and len(labels) != max(classes, 2):  # one column: the probability of class 1 of 2
        raise BadInputError(
            f"there must be one label per class: output {output.name} has {classes}, but {len(labels)} were given"
        )
    return labels
