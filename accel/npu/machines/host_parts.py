"""The parts of a network that run on the host before and between the segments: their archive, and running them on onnxruntime."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel.batches import run_in_pieces
from accel.npu.machines.host import Step, Tensors
from edgewright.errors import ModelError, first_line
from edgewright.steps import step

SUFFIX = ".onnx"
_DEQUANTIZE_ON_LOADING = "session.disable_quant_qdq"
"""Fuses no quantizers: onnxruntime 1.32 fails to fuse some of operator set 21, which blocks of weights need."""
_LOG_FATAL_ONLY = 4


def read_archive(path: Path) -> dict[int, bytes]:
    """Return the graphs in a `host_parts.tar`, by the number of the segment that follows; none if there is no file.

    Raises:
        ModelError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with tarfile.open(path) as archive:
            members = {member.name.removesuffix(SUFFIX): archive.extractfile(member) for member in archive.getmembers()}
            return {int(name): content.read() for name, content in members.items() if content is not None}
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ModelError(f"{path} must be a tar of numbered ONNX graphs, but it cannot be read: {error}") from error


def onnx_steps(graphs: Mapping[int, bytes]) -> dict[int, Step]:
    """Return the graphs as steps, by the same numbers."""
    return {at: OnnxPart(graph).run for at, graph in graphs.items()}


class OnnxPart:
    """A part of the host on onnxruntime; a graph of a fixed batch size takes any number of samples."""

    def __init__(self, graph: bytes) -> None:
        self._runtime: Any = _loaded(graph)
        self._inputs = [node.name for node in self._runtime.get_inputs()]
        self._outputs = [node.name for node in self._runtime.get_outputs()]
        sizes = {node.shape[0] for node in self._runtime.get_inputs() if node.shape and isinstance(node.shape[0], int)}
        self._batch_size = max(sizes, default=None)

    def run(self, available: Tensors) -> Tensors:
        """Return the outputs for the tensors `available`, which include the inputs."""
        inputs = {name: available[name] for name in self._inputs}
        return self._run(inputs) if self._batch_size is None else run_in_pieces(self._run, inputs, self._batch_size)

    def _run(self, inputs: Tensors) -> Tensors:
        with step("a run of a part of the host in onnxruntime"):
            return dict(zip(self._outputs, self._runtime.run(self._outputs, inputs), strict=True))


def _loaded(graph: bytes) -> Any:
    """Load a graph in onnxruntime.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    import onnxruntime

    for dequantized in ("0", "1"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_FATAL_ONLY
        options.add_session_config_entry(_DEQUANTIZE_ON_LOADING, dequantized)
        try:
            with step("loading a part of the host in onnxruntime"):
                return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  its exceptions have no common base class
            reason = first_line(error)
    raise ModelError(f"onnxruntime must load the host's part of the graph, but it cannot: {reason}: use another scheme")
