"""The `openvino` backends: any ONNX variant on an x86 or ARM processor, by OpenVINO.

    openvino         floats are computed in float32
    openvino-bf16    floats are computed in bfloat16, on processors that have it, for variants whose tolerance allows it

By default OpenVINO computes in bfloat16 on processors that have it. That is more than twice as fast, but with a mantissa of eight
bits it is not the network that was measured, so the precision is always set here. `openvino-bf16` is a candidate of `auto` only
if the variant's tolerance is wider than the usual error of bfloat16 (docs/adr/0006); the golden check decides.

Both also run variants for `onnxruntime`, because the graph is the same. Importing OpenVINO here never loads its telemetry.
"""

from __future__ import annotations

import contextlib
import queue
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from accel.backends.backend import Session
from accel.backends.openvino_inputs import InputCheck
from accel.batches import fixed_batch, run_in_pieces
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import BackendName, LayerKind, Precision, TensorSpec, VariantConfig, VariantDirectory
from edgewright.errors import BadInputError, InferenceError, ModelError, OperationError
from edgewright.steps import step
from hardware_profiles.detect import read_machine
from hardware_profiles.processors import default_threads

BF16_DIFFERENCE = 0.1
BF16_AGREEMENT = 0.99
"""The least tolerance for bfloat16: on a trained ResNet-8 its outputs differed by 0.08 and 3 labels of 400 changed."""

_RUNS_GRAPHS_OF = frozenset({BackendName.ONNXRUNTIME, BackendName.OPENVINO})
_PRECISIONS = frozenset({Precision.FP32, Precision.FP16, Precision.INT8, Precision.MIXED})
_FLOATS = frozenset({Precision.FP32, Precision.FP16})
_BF16_EXTENSIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_TELEMETRY = "openvino_telemetry"
_NOISE = re.compile(
    r"Exception from \S+:|Check '.*?' failed at \S+:|FrontEnd API failed with \w+:|"
    r"While validating node '.*?' with friendly_name|\s+"
)


class OpenVino:
    """OpenVINO on the processor, computing floats in float32."""

    name = BackendName.OPENVINO

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot be used on this machine, or None."""
        return None if find_spec("openvino") else "the package openvino is not installed: pip install 'edgewright[openvino]'"

    def runs(self, config: VariantConfig) -> bool:
        """Return True for an ONNX graph in a precision that OpenVINO has kernels for."""
        return config.backend in _RUNS_GRAPHS_OF and config.precision in _PRECISIONS

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load the graph of a variant; raise `ModelError` if its inputs or outputs differ from the config."""
        return _load(variant, threads, name=BackendName.OPENVINO, float_type="f32")


class OpenVinoBf16:
    """OpenVINO on a processor with bfloat16, for float variants whose tolerance allows it."""

    name = BackendName.OPENVINO_BF16

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot be used on this machine, or None."""
        if not read_machine().isa_extensions & _BF16_EXTENSIONS:
            return "this processor has no bfloat16 arithmetic"
        return OpenVino().unavailable()

    def runs(self, config: VariantConfig) -> bool:
        """Return True for a float variant whose tolerance allows the error of bfloat16."""
        tolerance = config.tolerance
        tolerated = tolerance.max_relative_difference >= BF16_DIFFERENCE and tolerance.min_agreement <= BF16_AGREEMENT
        return config.backend in _RUNS_GRAPHS_OF and config.precision in _FLOATS and tolerated

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load the graph of a variant; raise `ModelError` if its inputs or outputs differ from the config."""
        return _load(variant, threads, name=BackendName.OPENVINO_BF16, float_type="bf16")


class OpenVinoSession:
    """One loaded graph; see `Session`. An OpenVINO request serves one thread at a time, so free ones are kept in a queue."""

    def __init__(self, model: Any, compiled: Any, variant: VariantDirectory, description: dict[str, str]) -> None:
        self._compiled: Any = compiled
        self._path = variant.file(LayerKind.GRAPH)
        self._description = description
        self._inputs = _matched(compiled.inputs, variant.config.inputs, "input", variant)
        self._outputs = _matched(compiled.outputs, variant.config.outputs, "output", variant)
        self._check = InputCheck(model, self._inputs)
        self._fixed_batch = fixed_batch(tuple(self._inputs))
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; see `Session.run`."""
        fitted = check_inputs(inputs, tuple(self._inputs))
        if self._fixed_batch is None:
            return self._run_once(fitted)
        return run_in_pieces(self._run_once, fitted, self._fixed_batch)

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software; see `Session.describe`."""
        import openvino

        return {**self._description, "version": openvino.__version__}

    def close(self) -> None:
        """Release the graph and its memory."""
        self._compiled = None
        self._free = queue.SimpleQueue()

    def _run_once(self, inputs: Tensors) -> Tensors:
        reason = self._check.reason_against(inputs)
        if reason is not None:
            text = reason if isinstance(reason, str) else _shortened(reason)
            raise InferenceError(self._path, text, rejects_input=True)
        free, request = self._free, self._take_request()
        fed = {place: np.ascontiguousarray(inputs[spec.name]) for spec, place in self._inputs.items()}
        try:
            with step(f"a run of {self._path} in openvino"):
                request.infer(fed, share_inputs=True)
            # Copies: the next run of the request writes into the same memory.
            return {spec.name: np.array(request.get_output_tensor(place).data) for spec, place in self._outputs.items()}
        except RuntimeError as error:
            raise InferenceError(self._path, _shortened(error)) from error
        finally:
            free.put(request)

    def _take_request(self) -> Any:
        compiled = self._compiled
        if compiled is None:
            raise OperationError(f"{self._path} was closed: load it again to run it")
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return compiled.create_infer_request()


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Block the import of OpenVINO's telemetry inside the block; its packages then use their own silent replacement."""
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


def _load(variant: VariantDirectory, threads: int | None, *, name: str, float_type: str) -> OpenVinoSession:
    path = variant.file(LayerKind.GRAPH)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; it must be an ONNX graph")
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be 1 or more, not {threads}")
    threads = threads or default_threads()
    with without_telemetry():
        import openvino
        from openvino import frontend
    settings = {
        "INFERENCE_PRECISION_HINT": float_type,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two models on one machine would share the first core while others are idle.
        "ENABLE_CPU_PINNING": False,
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    try:
        with step(f"loading {path} in openvino"):
            model = _read(frontend.FrontEndManager(), path)
            compiled = openvino.Core().compile_model(model, "CPU", settings)
    except _errors(frontend) as error:
        raise ModelError(f"{path} is not an ONNX graph that openvino can load: {_shortened(error)}") from error
    description = {"backend": name, "floats": float_type, "threads": _threads_text(threads)}
    return OpenVinoSession(model, compiled, variant, description)


def _read(frontends: Any, path: Path) -> Any:
    """Read the file as ONNX: `Core.read_model` would try the readers of other formats first, which print."""
    reader = frontends.load_by_framework("onnx")
    return reader.convert(reader.load(str(path)))


def _errors(frontend: Any) -> tuple[type[Exception], ...]:
    """Return OpenVINO's exceptions; those of its readers have no common base class."""
    return (
        RuntimeError,
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )


def _matched(ports: Sequence[Any], specs: Sequence[TensorSpec], kind: str, variant: VariantDirectory) -> dict[TensorSpec, int]:
    """Return the graph's spec of each tensor in `specs` with its place; raise `ModelError` if a name or dtype differs."""
    places = {name: place for place, port in enumerate(ports) for name in port.get_names()}
    matched: dict[TensorSpec, int] = {}
    for spec in specs:
        port = ports[places[spec.name]] if spec.name in places else None
        if port is None or _dtype(port) != spec.dtype:
            actual = ", ".join(f"{port.get_any_name()} {_dtype(port)}" for port in ports)
            raise ModelError(
                f"{variant.path}: the graph must have the {kind} {spec.name} {spec.dtype} of its config, but has {actual}"
            )
        matched[TensorSpec(name=spec.name, dtype=spec.dtype, shape=_shape(port))] = places[spec.name]
    if len(ports) != len(specs):
        raise ModelError(f"{variant.path}: the graph must have the {len(specs)} {kind}s of its config, but has {len(ports)}")
    return matched


def _dtype(port: Any) -> str:
    """Return NumPy's name of the element type; strings are objects in NumPy."""
    element = port.get_element_type()
    return "object" if element.get_type_name() == "string" else str(np.dtype(element.to_dtype()).name)


def _shape(port: Any) -> tuple[int | str, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ("N",)
    return tuple("N" if size.is_dynamic else size.get_length() for size in shape)


def _threads_text(threads: int | None) -> str:
    return "chosen by the runtime" if threads is None else str(threads)


def _shortened(failure: Exception, limit: int = 200) -> str:
    """Return a message of OpenVINO as one short line, without its source locations."""
    line = " ".join(_NOISE.sub(" ", str(failure)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
