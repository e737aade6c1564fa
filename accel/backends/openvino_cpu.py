"""The `openvino` backends: any ONNX variant on an x86 or ARM processor, by OpenVINO.

    openvino         floats are computed in float32
    openvino-bf16    floats are computed in bfloat16, on processors that have it, for variants whose tolerance allows it

OpenVINO on its own takes bfloat16 wherever the processor has it: more than twice as fast, and with eight bits of mantissa no
longer the network that was measured. So the precision is always said here. `openvino-bf16` is a candidate of `auto` only where
the variant's own tolerance is wider than what bfloat16 does to networks (docs/adr/0006); the golden check has the last word.

Both run what was made for `onnxruntime` too, for the graph is the same. Importing OpenVINO here never loads its telemetry.
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
from accel.backends.batches import fixed_batch, run_in_pieces
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import BackendName, LayerKind, Precision, TensorSpec, VariantConfig, VariantDirectory
from edgewright.errors import BadInputError, ModelError, OperationError
from hardware_profiles.detect import read_machine

BF16_DIFFERENCE = 0.1
BF16_AGREEMENT = 0.99
"""What a tolerance must allow before bfloat16 is tried: on a trained ResNet-8 it was 0.08 off and changed 3 labels of 400."""

_RUNS_GRAPHS_OF = frozenset({BackendName.ONNXRUNTIME, BackendName.OPENVINO})
_PRECISIONS = frozenset({Precision.FP32, Precision.FP16, Precision.INT8, Precision.MIXED})
_FLOATS = frozenset({Precision.FP32, Precision.FP16})
_BF16_EXTENSIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_TELEMETRY = "openvino_telemetry"
_NOISE = re.compile(r"Exception from \S+:|Check '.*?' failed at \S+:|FrontEnd API failed with \w+:|\s+")


class OpenVino:
    """OpenVINO on the processor, computing floats in float32."""

    name = BackendName.OPENVINO

    def unavailable(self) -> str | None:
        """Return why it cannot be used on this machine, or None when it can."""
        return None if find_spec("openvino") else "the package openvino is not installed: pip install 'edgewright[openvino]'"

    def runs(self, config: VariantConfig) -> bool:
        """Tell whether a variant is an ONNX graph in a precision that it has kernels for."""
        return config.backend in _RUNS_GRAPHS_OF and config.precision in _PRECISIONS

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load a variant's graph and check it against the variant's config; raise `ModelError` when they differ."""
        return _load(variant, threads, name=BackendName.OPENVINO, float_type="f32")


class OpenVinoBf16:
    """OpenVINO on a processor with bfloat16, for float variants whose tolerance allows it."""

    name = BackendName.OPENVINO_BF16

    def unavailable(self) -> str | None:
        """Return why it cannot be used on this machine, or None when it can."""
        if not read_machine().isa_extensions & _BF16_EXTENSIONS:
            return "this processor has no bfloat16 arithmetic"
        return OpenVino().unavailable()

    def runs(self, config: VariantConfig) -> bool:
        """Tell whether it is a float variant that may be as far off as bfloat16 takes it."""
        allowed = config.tolerance
        tolerated = allowed.max_relative_difference >= BF16_DIFFERENCE and allowed.min_agreement <= BF16_AGREEMENT
        return config.backend in _RUNS_GRAPHS_OF and config.precision in _FLOATS and tolerated

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load a variant's graph and check it against the variant's config; raise `ModelError` when they differ."""
        return _load(variant, threads, name=BackendName.OPENVINO_BF16, float_type="bf16")


class OpenVinoSession:
    """One loaded graph; see `Session`. A request of OpenVINO serves one thread at a time, so free ones wait in a queue."""

    def __init__(self, compiled: Any, variant: VariantDirectory, *, name: str, float_type: str, threads: int | None) -> None:
        self._compiled: Any = compiled
        self._path = variant.file(LayerKind.GRAPH)
        self._description = {"backend": name, "floats": float_type, "threads": _threads_in_words(threads)}
        self._inputs = _matched(compiled.inputs, variant.config.inputs, "input", variant)
        self._outputs = _matched(compiled.outputs, variant.config.outputs, "output", variant)
        self._fixed_batch = fixed_batch(tuple(self._inputs))
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; see `Session.run`."""
        fitted = check_inputs(inputs, tuple(self._inputs))
        if self._fixed_batch is None:
            return self._run_once(fitted)
        return run_in_pieces(self._run_once, fitted, self._fixed_batch)

    def describe(self) -> dict[str, str]:
        """Return what runs here, in words."""
        import openvino

        return {**self._description, "version": openvino.__version__}

    def close(self) -> None:
        """Let go of the graph and its memory."""
        self._compiled = None
        self._free = queue.SimpleQueue()

    def _run_once(self, inputs: Tensors) -> Tensors:
        free, request = self._free, self._take_request()
        fed = {place: np.ascontiguousarray(inputs[spec.name]) for spec, place in self._inputs.items()}
        try:
            request.infer(fed, share_inputs=True)
            # Copies: the request writes its next answers into the same memory.
            return {spec.name: np.array(request.get_output_tensor(place).data) for spec, place in self._outputs.items()}
        except RuntimeError as failed:
            raise OperationError(f"{self._path} failed to run: {_shortened(failed)}") from failed
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
    """Import OpenVINO's packages inside: their telemetry then cannot be imported, and they take their own silent stand-ins."""
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # the import system's own way to say "not there"
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


def _load(variant: VariantDirectory, threads: int | None, *, name: str, float_type: str) -> OpenVinoSession:
    path = variant.file(LayerKind.GRAPH)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; an ONNX graph must be there")
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be 1 or more, not {threads}")
    with without_telemetry():
        import openvino
        from openvino import frontend
    settings = {
        "INFERENCE_PRECISION_HINT": float_type,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two models on one machine would share the first core and leave the others idle.
        "ENABLE_CPU_PINNING": False,
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    try:
        compiled = openvino.Core().compile_model(_read(frontend.FrontEndManager(), path), "CPU", settings)
    except _errors(frontend) as failed:
        raise ModelError(f"{path} is no ONNX graph that openvino can load: {_shortened(failed)}") from failed
    return OpenVinoSession(compiled, variant, name=name, float_type=float_type, threads=threads)


def _read(frontends: Any, path: Path) -> Any:
    """Read ONNX as ONNX: `Core.read_model` would ask every other format's reader first, and those print."""
    reader = frontends.load_by_framework("onnx")
    return reader.convert(reader.load(str(path)))


def _errors(frontend: Any) -> tuple[type[Exception], ...]:
    """Return what OpenVINO raises; its readers' exceptions share no base of their own."""
    return (
        RuntimeError,
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )


def _matched(ports: Sequence[Any], specs: Sequence[TensorSpec], what: str, variant: VariantDirectory) -> dict[TensorSpec, int]:
    """Return the graph's own view of each tensor in `specs`, and its place; raise `ModelError` where they differ."""
    found = {name: place for place, port in enumerate(ports) for name in port.get_names()}
    matched: dict[TensorSpec, int] = {}
    for spec in specs:
        port = ports[found[spec.name]] if spec.name in found else None
        if port is None or _dtype(port) != spec.dtype:
            have = ", ".join(f"{port.get_any_name()} {_dtype(port)}" for port in ports)
            raise ModelError(
                f"{variant.path}: the graph must have the {what} {spec.name} {spec.dtype} of its config, but has {have}"
            )
        matched[TensorSpec(name=spec.name, dtype=spec.dtype, shape=_shape(port))] = found[spec.name]
    if len(ports) != len(specs):
        raise ModelError(f"{variant.path}: the graph must have the {len(specs)} {what}s of its config, but has {len(ports)}")
    return matched


def _dtype(port: Any) -> str:
    """Return NumPy's name of the element type; texts, which NumPy calls objects, have none."""
    element = port.get_element_type()
    return "object" if element.get_type_name() == "string" else str(np.dtype(element.to_dtype()).name)


def _shape(port: Any) -> tuple[int | str, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ("N",)
    return tuple("N" if size.is_dynamic else size.get_length() for size in shape)


def _threads_in_words(threads: int | None) -> str:
    return "chosen by the runtime" if threads is None else str(threads)


def _shortened(failure: Exception, limit: int = 200) -> str:
    """Return OpenVINO's message as one short line, without places in its sources."""
    line = " ".join(_NOISE.sub(" ", str(failure)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
