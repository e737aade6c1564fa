"""The `onnxruntime` backend: any ONNX variant on the processor.

It checks inputs before the runtime, so that a mismatch is reported in one clear line. It hides the batch axis of the graph: a
dynamic one takes the whole batch, a fixed one takes it in pieces. The log of the runtime is off; its errors are raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt

from accel.backends.backend import Session
from accel.batches import fixed_batch, run_in_pieces
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import BackendName, LayerKind, Precision, TensorSpec, VariantConfig, VariantDirectory
from edgewright.errors import BadInputError, InferenceError, ModelError, OperationError
from edgewright.steps import step
from hardware_profiles.processors import default_threads

# Both load plain ONNX; a variant names the backend that it was tuned for.
_RUNS_GRAPHS_OF = frozenset({BackendName.ONNXRUNTIME, BackendName.OPENVINO})
_LOG_FATAL_ONLY = 4
_DEQUANTIZE_ON_LOADING = "session.disable_quant_qdq"
"""Fuses no quantizers, so that those of constants are folded; otherwise blocked weights are expanded on every run."""
_EXACT_WITHOUT_VNNI = "session.x64quantprecision"
"""Makes weights of eight bits unsigned on x86 without VNNI: products of signed ones overflow the 16 bits that add two of them."""
_FUSION_FAILS = ("Attempt to replace the existing tensor", "does not match y_zero_point type")
"""Errors of onnxruntime 1.32 when it fuses quantizers: `_EXACT_WITHOUT_VNNI` of a weight, or its zero point, that two operators
share; and operator set 21 with int8 activations beside a Transpose (accel/npu/lowering/opset.py)."""
_QUANTIZES_MORE = "WeightBiasQuantization"
"""Since 1.21 it rounds the weights of float layers between quantized ones to int8: exactly the layers that mixed keeps."""
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/onnxruntime\S*:\d+ .*? was false\. |\S*/onnxruntime/\S+ |"
    r"[\w/]+\.cc:\d+ \w+ |Load model from \S+ failed:"
)
_PRECISIONS = frozenset(Precision)
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


class OnnxRuntime:
    """ONNX Runtime on the processor."""

    name = BackendName.ONNXRUNTIME

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot be used on this machine, or None."""
        return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def runs(self, config: VariantConfig) -> bool:
        """Return True for an ONNX graph in a precision that the runtime has kernels for."""
        return config.backend in _RUNS_GRAPHS_OF and config.precision in _PRECISIONS

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load the graph of a variant; raise `ModelError` if its inputs or outputs differ from the config."""
        session = load_graph(variant.file(LayerKind.GRAPH), threads=threads, precision=variant.config.precision)
        check_interface(session.inputs, variant.config.inputs, "input", variant)
        check_interface(session.outputs, variant.config.outputs, "output", variant)
        return session


class OnnxRuntimeSession:
    """One loaded graph; see `Session`."""

    def __init__(self, runtime: Any, path: Path, threads: int | None) -> None:
        self._runtime: Any = runtime
        self._path = path
        self._threads = threads
        self.inputs = tuple(_spec(node, path) for node in runtime.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in runtime.get_outputs())
        scalar = [spec.name for spec in self.inputs if not spec.shape]
        if scalar or not self.inputs:
            raise ModelError(f"{path}: every input must have an axis that counts samples; {', '.join(scalar) or 'none'} has none")
        self._output_names = [spec.name for spec in self.outputs]
        self._fixed_batch = fixed_batch(self.inputs)

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; see `Session.run`."""
        fitted = check_inputs(inputs, self.inputs)
        if self._fixed_batch is None:
            return self._run_once(fitted)
        return run_in_pieces(self._run_once, fitted, self._fixed_batch)

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software; see `Session.describe`."""
        import onnxruntime

        return {
            "backend": BackendName.ONNXRUNTIME,
            "version": onnxruntime.__version__,
            "providers": ", ".join(self._runtime.get_providers()),
            "threads": "chosen by the runtime" if self._threads is None else str(self._threads),
        }

    def close(self) -> None:
        """Release the graph and its memory."""
        self._runtime = None

    def _run_once(self, inputs: Tensors) -> Tensors:
        if self._runtime is None:
            raise OperationError(f"{self._path} was closed: load it again to run it")
        outputs = run_runtime(self._runtime, inputs, self._path, self._output_names)
        return dict(zip(self._output_names, outputs, strict=True))


def load_graph(path: Path, *, threads: int | None = None, precision: Precision = Precision.FP32) -> OnnxRuntimeSession:
    """Load any ONNX file; external weights are in the same folder.

    Block formats and mixed need their `precision`, because they change settings of the runtime's optimizer.

    Raises:
        ModelError: the file is missing, or is not an ONNX graph that the runtime can load; the message is one line.
    """
    threads = default_threads() if threads is None else threads
    return OnnxRuntimeSession(open_runtime(path, threads=threads, precision=precision), path, threads)


def run_runtime(runtime: Any, inputs: Tensors, path: Path, names: list[str] | None = None) -> list[npt.NDArray[Any]]:
    """Run onnxruntime's own session; raise `InferenceError` if it fails.

    `names` are those of all outputs; without them the runtime looks them up, in a fifth of the time of a small model.
    """
    try:
        with step(f"a run of {path} in onnxruntime"):
            outputs: list[npt.NDArray[Any]] = runtime.run(names, inputs)
    except _runtime_errors() as error:
        raise InferenceError(path, shortened(error), rejects_input=_rejects_input(error)) from error
    return outputs


def open_runtime(
    path: Path, *, content: bytes | None = None, threads: int | None = None, precision: Precision = Precision.FP32
) -> Any:
    """Load any ONNX file as onnxruntime's own session, whose inputs may be scalars.

    Args:
        path: the file.
        content: the graph, if it differs from the file's; external weights are still read from beside `path`.
        threads: number of threads; None: one per processor that this process may use.
        precision: the precision of a variant.

    Raises:
        ModelError: the file is missing, or is not an ONNX graph that the runtime can load; the message is one line.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; it must be an ONNX graph")
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be 1 or more, not {threads}")
    threads = threads or default_threads()  # the runtime counts the processors of the machine, not those of this process
    try:
        with step(f"loading {path} in onnxruntime"):
            runtime = _runtime(path, content, threads, precision)
    except _runtime_errors() as error:
        raise ModelError(f"{path} is not an ONNX graph that onnxruntime can load: {shortened(error)}") from error
    return runtime


def _runtime(path: Path, content: bytes | None, threads: int | None, precision: Precision) -> Any:
    """Load a graph so that its integers are exact on every processor."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_LOG_FATAL_ONLY)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    if content is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
    graph = str(path) if content is None else content
    options.inter_op_num_threads = 1
    if precision is not Precision.INT8_DYNAMIC:  # its weights never overflow, and the signed kernels are faster
        options.add_session_config_entry(_EXACT_WITHOUT_VNNI, "1")
    if precision in (Precision.MXINT8, Precision.NPU_MXINT8):
        options.add_session_config_entry(_DEQUANTIZE_ON_LOADING, "1")
    disabled = [_QUANTIZES_MORE] if precision is Precision.MIXED else []
    return create_session(graph, options, disabled)


def create_session(graph: str | bytes, options: Any, disabled_optimizers: Sequence[str] = ()) -> Any:
    """Create onnxruntime's own session; if it fails to fuse quantizers, create one that fuses none, which is slower."""
    import onnxruntime

    settings = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": list(disabled_optimizers)}
    try:
        return onnxruntime.InferenceSession(graph, options, **settings)
    except _runtime_errors() as error:
        if not any(failure in str(error) for failure in _FUSION_FAILS):
            raise
        options.add_session_config_entry(_DEQUANTIZE_ON_LOADING, "1")
        return onnxruntime.InferenceSession(graph, options, **settings)


def check_interface(actual: Sequence[TensorSpec], expected: Sequence[TensorSpec], kind: str, variant: VariantDirectory) -> None:
    """Raise `ModelError` unless names and dtypes of the graph are those of the config; `kind` is input or output."""
    actual_types = {spec.name: spec.dtype for spec in actual}
    types = {spec.name: spec.dtype for spec in expected}
    if actual_types != types:
        raise ModelError(
            f"{variant.path}: the {kind}s of the graph must be those of its config ({_listed(types)}), "
            f"but it has {_listed(actual_types)}"
        )


def shortened(failure: Exception, limit: int = 200) -> str:
    """Return a message of the runtime as one short line, without its error numbers and source locations."""
    line = " ".join(_NOISE.sub("", str(failure)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _listed(tensors: dict[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in tensors.items())


def _spec(node: Any, path: Path) -> TensorSpec:
    if node.type not in _DTYPES:
        raise ModelError(f"{path}: {node.name} must be a tensor of a plain number type, not {node.type}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else str(size or "?") for size in node.shape)
    return TensorSpec(name=node.name, dtype=_DTYPES[node.type], shape=shape)


def _rejects_input(error: Exception) -> bool:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return isinstance(error, state.InvalidArgument)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return onnxruntime's exceptions, which have no common base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, ValueError, RuntimeError)
