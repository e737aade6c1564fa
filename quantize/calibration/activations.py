"""See the values inside a graph: run it with its inner tensors as outputs, one batch at a time.

How many samples go into a batch follows from how much the tensors of one sample take, so memory depends on the graph and never
on how many samples there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.backends.batches import fixed_batch
from accel.backends.onnxruntime_cpu import shortened
from edgewright.command_line import progress
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import OperationError

BATCH_SIZE = 32
BATCH_BYTES = 128 << 20
"""How much the watched tensors of one batch may take together."""

_FLOATS = {"tensor(float)", "tensor(float16)"}
_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"
_LOG_FATAL_ONLY = 4


class ObservedGraph:
    """A graph whose float tensors can be seen while samples flow through."""

    def __init__(self, model: onnx.ModelProto, *, weights: Path | None = None) -> None:
        """Watch `model`, which is not changed; `weights` is the folder of those that are not inside it."""
        self._source = (model, weights)
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        known = {value.name for value in watched.graph.output}
        names = [name for node in watched.graph.node for name in node.output if name and name not in known]
        watched.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
        self._runtime = _session(watched.SerializeToString(), weights)
        inputs = {node.name: node.type for node in self._runtime.get_inputs()}
        outputs = {node.name: node.type for node in self._runtime.get_outputs()}
        self.inputs = tuple(inputs)
        self._float_inputs = {name for name, kind in inputs.items() if kind in _FLOATS}
        self.tensors = tuple(name for name, kind in (inputs | outputs).items() if kind in _FLOATS)

    @classmethod
    def open(cls, path: Path) -> ObservedGraph:
        """Watch a graph on disk; its weights stay there."""
        return cls(onnx.load(path, load_external_data=False), weights=path.parent)

    def run(self, inputs: Tensors, tensors: Sequence[str]) -> Tensors:
        """Return the values of `tensors` (inputs are tensors too)."""
        asked = [name for name in tensors if name not in self._float_inputs]
        found = _answers(self._runtime, asked, {name: inputs[name] for name in self.inputs}) if asked else []
        values = dict(zip(asked, found, strict=True))
        return {name: inputs[name] if name in self._float_inputs else values[name] for name in tensors}

    def extents(self, samples: Samples, label: str) -> Iterator[dict[str, tuple[float, float]]]:
        """Yield the smallest and largest value of every tensor, batch by batch; the model must still be what was given.

        The graph itself takes them: its inner tensors, 90 MB for an image of ResNet-50, never leave the runtime. Where one is not
        finite, the finite values are looked through here.
        """
        reduced = _session(_with_extents(self._source[0], self.tensors), self._source[1])
        for inputs in self.batches(samples, self.tensors, label):
            found = [float(value) for value in _answers(reduced, [one.name for one in reduced.get_outputs()], inputs)]
            extents = dict(zip(self.tensors, zip(found[::2], found[1::2], strict=True), strict=True))
            odd = [name for name, extent in extents.items() if not np.isfinite(extent).all()]
            yield extents | {name: finite_range(array) for name, array in self.run(inputs, odd).items()}

    def values(self, samples: Samples, tensors: Sequence[str], label: str) -> Iterator[Tensors]:
        """Yield the values of `tensors`, batch by batch; only one batch is in memory."""
        for inputs in self.batches(samples, tensors, label):
            yield self.run(inputs, tensors)

    def batches(self, samples: Samples, tensors: Sequence[str], label: str | None) -> Iterator[Tensors]:
        """Yield inputs in batches small enough for the values of `tensors` to be held; `label` None shows no progress."""
        fixed = fixed_batch([TensorSpec(name=one.name, dtype="", shape=tuple(one.shape)) for one in self._runtime.get_inputs()])
        size = fixed or self._batch_size(samples, tensors)
        starts = range(0, samples.count, size)
        for start in starts if label is None else progress(starts, label):
            inputs = samples.slice(start, start + size).inputs
            yield inputs if fixed is None else {name: _filled_up(array, size) for name, array in inputs.items()}

    def _batch_size(self, samples: Samples, tensors: Sequence[str]) -> int:
        needed = sum(array.nbytes for array in self.run(samples.slice(0, 1).inputs, tensors).values())
        return int(np.clip(BATCH_BYTES // max(needed, 1), 1, BATCH_SIZE))


def _answers(runtime: Any, asked: Sequence[str], inputs: Tensors) -> Sequence[npt.NDArray[Any]]:
    try:
        found: Sequence[npt.NDArray[Any]] = runtime.run(asked, inputs)
    except Exception as failed:  # onnxruntime's exceptions share no base of their own
        raise OperationError(f"the graph failed to run on the samples: {shortened(failed)}") from failed
    return found


def finite_range(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest finite value; an attention mask is full of -inf, and that is no mistake."""
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _with_extents(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Return the graph with the smallest and the largest value of each of `tensors` as its only outputs, in that order."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(model)
    del reduced.graph.output[:]
    for place, name in enumerate(tensors):
        for operator in ("ReduceMin", "ReduceMax"):
            made = f"{operator}/{place}"
            reduced.graph.node.append(onnx.helper.make_node(operator, [name], [made], name=made, keepdims=0))
            reduced.graph.output.append(onnx.ValueInfoProto(name=made))
    raw: bytes = reduced.SerializeToString()
    return raw


def _filled_up(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Repeat what is there until there are `size`: the graph insists on a full batch."""
    return array if len(array) == size else np.resize(array, (size, *array.shape[1:]))


def _session(raw: bytes, weights: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    if weights is not None:
        options.add_session_config_entry(_FOLDER_OF_WEIGHTS, str(weights.resolve()))
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
