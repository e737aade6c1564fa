"""Find inputs and outputs whose first axis does not count the samples, from runs of the graph.

An output of detections [rows, 6] or of letters [time, batch, classes] has another first axis. A model of sequences
[time, batch, features] counts its time steps there, which depend on each other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from accel.backends.backend import Session
from accel.batches import SampleAxisError
from edgewright.contracts.samples import Samples, Tensors
from edgewright.errors import ModelError, OperationError

_Array = npt.NDArray[Any]

_RECURRENT = ("LSTM", "GRU", "RNN")
_BY_ELEMENT = {
    *("Identity", "Cast", "Relu", "Tanh", "Sigmoid", "Clip", "LeakyRelu", "Gelu", "Dropout"),
    *("Add", "Sub", "Mul", "Div", "MatMul", "LayerNormalization"),
}
"""Operators that keep the first axis of their data."""
_OVER_SEQUENCES = ("Softmax", "Attention", "MultiHeadAttention", "Loop", "Scan")
"""Operators that relate the steps of a sequence; statistics over a batch have none of them."""
_SAME = 1e-3


def check_outputs_count_samples(session: Session, samples: Samples) -> None:
    """Check that the first axis of every output counts the samples.

    Raises:
        ModelError: it does not; the message names the axis that does, if there is one.
        OperationError: the graph cannot run these samples.
    """
    counts = (1, min(2, samples.count))
    try:
        one, two = (session.run(samples.slice(0, count).inputs) for count in counts)
    except SampleAxisError as error:
        axes = [axis for axis, size in enumerate(error.shape) if size == error.count]
        found = f"{list(error.shape)} for {error.count}"
        raise ModelError(_uncounted(error.name, found, axes)) from error
    for name, array in one.items():
        if array.ndim == 0 or (len(array), len(two[name])) != counts:
            axes = [axis for axis in range(array.ndim) if (array.shape[axis], two[name].shape[axis]) == counts]
            found = f"{list(array.shape)} for one sample and {list(two[name].shape)} for {counts[1]}"
            raise ModelError(_uncounted(name, found, axes))


def _uncounted(name: str, found: str, axes: list[int]) -> str:
    advice = (
        f"name the axis that does, as in --batch-axis {name}={axes[0]}"
        if axes
        else "export it without this output, or name the batch axis of the inputs with --batch-axis"
    )
    return f"the first axis of every output must count the samples, but output {name} has the shape {found}: {advice}"


def check_first_axis_is_no_time(graph: ir.Graph, session: Session, samples: Samples, named: Collection[str]) -> None:
    """Check inputs whose samples depend on each other: their first axis must not be the time of a sequence.

    Args:
        graph: the graph; a recurrent layer shows the time axis of its input.
        session: the loaded graph.
        samples: inputs.
        named: inputs and outputs whose batch axis the user named.

    Raises:
        ModelError: the first axis of an input is the time, and the second one is the batch.
    """
    if named:
        return
    name = next((str(value.name) for value in graph.inputs if _feeds_recurrence(value)), None)
    name = name or _independent_along_second_axis(graph, session, samples)
    if name is not None:
        raise ModelError(
            f"samples must not depend on each other, but those of input {name} do, as steps in time: if its second axis is the "
            f"batch, add --batch-axis {name}=1; if the first one is, add --batch-axis {name}=0"
        )


def _feeds_recurrence(value: ir.Value) -> bool:
    """Return True if the first axis of an input is the time axis of a recurrent layer."""
    for node, index in value.uses():
        if node.op_type in _RECURRENT and index == 0:
            layout = node.attributes.get_int("layout", 0)
            if layout == 0:
                return True
        embeds = node.op_type == "Gather" and index == 1 and node.attributes.get_int("axis", 0) == 0
        if (embeds or node.op_type in _BY_ELEMENT) and _feeds_recurrence(node.outputs[0]):
            return True
    return False


def _independent_along_second_axis(graph: ir.Graph, session: Session, samples: Samples) -> str | None:
    """Return an input of sequences if the model computes each entry of the second axis separately."""
    second = {
        str(value.name)
        for value in graph.inputs
        if value.shape is not None and len(value.shape) >= 2 and not isinstance(value.shape[1], int)
    }
    if not any(node.op_type in _OVER_SEQUENCES for node in graph):
        return None
    sequences = [name for name in second if samples.inputs[name].ndim >= 3 and samples.inputs[name].shape[1] > 1]
    if not sequences:
        return None
    first = samples.slice(0, 4).inputs
    try:
        one, two = (session.run(_cut(first, second, count)) for count in (1, 2))
    except OperationError:
        return None
    return sequences[0] if all(_same_sample(one[name], two[name]) for name in one) else None


def _cut(inputs: Tensors, second: Collection[str], count: int) -> Tensors:
    return {name: array[:, :count] if name in second else array for name, array in inputs.items()}


def _same_sample(one: _Array, two: _Array) -> bool:
    """Return True if the only entry of `one` is the first entry of `two`, on some axis."""
    axes = [axis for axis in range(one.ndim) if (one.shape[axis], two.shape[axis : axis + 1]) == (1, (2,))]
    if not axes or one.ndim != two.ndim:
        return False
    first = np.take(two, [0], axis=axes[0])
    return first.shape == one.shape and bool(np.allclose(first, one, rtol=_SAME, atol=_SAME, equal_nan=True))
