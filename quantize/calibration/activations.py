"""Observe the values inside a graph: run it with its inner tensors as outputs, one batch at a time.

The batch size follows from the size of the tensors of one sample, so the memory depends on the graph and not on the number of
samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.backends.onnxruntime_cpu import create_session, shortened
from accel.batches import fixed_batch
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import OperationError
from edgewright.progress import Progress, silent
from edgewright.steps import step
from hardware_profiles.processors import default_threads

BATCH_SIZE = 32
BATCH_BYTES = 128 << 20
"""Limit for all observed tensors of one batch together."""

_FLOATS = {"tensor(float)", "tensor(float16)"}
_WEIGHTS_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
_LOG_FATAL_ONLY = 4


class ObservedGraph:
    """A graph whose float tensors can be read while it runs on samples."""

    def __init__(self, model: onnx.ModelProto, *, weights: Path | None = None, progress: Progress = silent) -> None:
        """Load a copy of `model` with every tensor as an output; `weights` is the folder of its external weights."""
        self._progress = progress
        self._source = (model, weights)
        observed = onnx.ModelProto()
        observed.CopyFrom(model)
        outputs = {value.name for value in observed.graph.output}
        inner = [name for node in observed.graph.node for name in node.output if name and name not in outputs]
        observed.graph.output.extend([onnx.ValueInfoProto(name=name) for name in inner])
        self._runtime = _session(observed.SerializeToString(), weights)
        input_types = {node.name: node.type for node in self._runtime.get_inputs()}
        output_types = {node.name: node.type for node in self._runtime.get_outputs()}
        self.inputs = tuple(input_types)
        self._float_inputs = {name for name, kind in input_types.items() if kind in _FLOATS}
        self.tensors = tuple(name for name, kind in (input_types | output_types).items() if kind in _FLOATS)

    @classmethod
    def open(cls, path: Path, *, progress: Progress = silent) -> ObservedGraph:
        """Load a graph file; its external weights stay on disk."""
        return cls(onnx.load(path, load_external_data=False), weights=path.parent, progress=progress)

    def run(self, inputs: Tensors, tensors: Sequence[str]) -> Tensors:
        """Return the values of `tensors`, which may include inputs."""
        names = [name for name in tensors if name not in self._float_inputs]
        arrays = _run(self._runtime, names, {name: inputs[name] for name in self.inputs}) if names else []
        values = dict(zip(names, arrays, strict=True))
        return {name: inputs[name] if name in self._float_inputs else values[name] for name in tensors}

    def extents(self, samples: Samples, label: str) -> Iterator[dict[str, tuple[float, float]]]:
        """Yield the smallest and largest finite value of every tensor, batch by batch; the model must be unchanged.

        The graph computes them itself, so its inner tensors, 90 MB for an image of ResNet-50, never leave the runtime. Only a
        tensor with an infinite or NaN extent is searched here.
        """
        reduced = _session(_with_extents(self._source[0], self.tensors), self._source[1])
        for inputs in self.batches(samples, self.tensors, label):
            bounds = [float(value) for value in _run(reduced, [one.name for one in reduced.get_outputs()], inputs)]
            extents = dict(zip(self.tensors, zip(bounds[::2], bounds[1::2], strict=True), strict=True))
            infinite = [name for name, extent in extents.items() if not np.isfinite(extent).all()]
            yield extents | {name: finite_range(array) for name, array in self.run(inputs, infinite).items()}

    def values(self, samples: Samples, tensors: Sequence[str], label: str) -> Iterator[Tensors]:
        """Yield the values of `tensors`, batch by batch; only one batch is in memory."""
        for inputs in self.batches(samples, tensors, label):
            yield self.run(inputs, tensors)

    def batches(self, samples: Samples, tensors: Sequence[str], label: str) -> Iterator[Tensors]:
        """Yield inputs in batches small enough to hold the values of `tensors` in memory."""
        fixed = fixed_batch([TensorSpec(name=one.name, dtype="", shape=tuple(one.shape)) for one in self._runtime.get_inputs()])
        size = fixed or self._batch_size(samples, tensors)
        starts = range(0, samples.count, size)
        for start in self._progress(starts, label):
            inputs = samples.slice(start, start + size).inputs
            yield inputs if fixed is None else {name: _filled_up(array, size) for name, array in inputs.items()}

    def _batch_size(self, samples: Samples, tensors: Sequence[str]) -> int:
        needed = sum(array.nbytes for array in self.run(samples.slice(0, 1).inputs, tensors).values())
        return int(np.clip(BATCH_BYTES // max(needed, 1), 1, BATCH_SIZE))


def _run(runtime: Any, names: Sequence[str], inputs: Tensors) -> Sequence[npt.NDArray[Any]]:
    try:
        with step("a run of the graph with its inner tensors as outputs in onnxruntime"):
            outputs: Sequence[npt.NDArray[Any]] = runtime.run(names, inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise OperationError(f"the graph failed to run on the samples: {shortened(error)}") from error
    return outputs


def finite_range(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest finite value; an attention mask legitimately holds many -inf."""
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _with_extents(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Return the graph with the minimum and the maximum of each of `tensors` as its only outputs, in that order."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(model)
    del reduced.graph.output[:]
    for place, name in enumerate(tensors):
        for operator in ("ReduceMin", "ReduceMax"):
            output = f"{operator}/{place}"
            reduced.graph.node.append(onnx.helper.make_node(operator, [name], [output], name=output, keepdims=0))
            reduced.graph.output.append(onnx.ValueInfoProto(name=output))
    raw: bytes = reduced.SerializeToString()
    return raw


def _filled_up(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Repeat the samples up to `size`: the graph requires a full batch."""
    return array if len(array) == size else np.resize(array, (size, *array.shape[1:]))


def _session(raw: bytes, weights: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.intra_op_num_threads = default_threads() or 0
    if weights is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER_KEY, str(weights.resolve()))
    with step("loading the graph with its inner tensors as outputs in onnxruntime"):
        return create_session(raw, options)
