"""The `npu` backend: the featurizer on an FPGA board, the head on the processor; a disconnected board loses no request.

A variant for an NPU holds its program, the record of the NPU that it was compiled for, and the head as plain ONNX. The program
runs on a board on a serial line that identifies itself as that NPU. Without such a board the functional model computes the same
bits here, until a board answers (accel/npu/machines/failover.py). `describe` names the current one.

`EDGEWRIGHT_NPU_DEVICE` names the serial ports to try, separated by commas, or `none`; without it every USB serial port is probed
(accel/npu/link/discovery.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from accel.backends.backend import Session
from accel.backends.onnxruntime_cpu import OnnxRuntimeSession, load_graph
from accel.npu.link.discovery import devices
from accel.npu.machines.failover import Failover
from accel.npu.machines.host import Session as ProgramSession
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram, read_program
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import BackendName, LayerKind, TensorSpec, VariantConfig, VariantDirectory
from edgewright.errors import ModelError, PackageError
from hardware_profiles.hardware_profile import NPU_RECORD


class Npu:
    """The FPGA NPU, or its functional model."""

    name = BackendName.NPU

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot be used here, or None; without a board the functional model replaces it."""
        return None if find_spec("onnxruntime") else "the package onnxruntime, which runs the head, is not installed"

    def runs(self, config: VariantConfig) -> bool:
        """Return True for a variant that was compiled for an NPU."""
        return config.backend == BackendName.NPU

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load program and head and start the search for a board; raise `ModelError` if the files do not fit together."""
        program, profile = _program(variant), _profile(variant)
        program.check_profile(profile)
        head_path = variant.file(LayerKind.HEAD_GRAPH)
        head = load_graph(head_path, threads=threads) if head_path.is_file() else None
        _check_head(head, program, variant)
        machine = Failover(profile, program, devices)
        return NpuSession(variant, ProgramSession(machine, program), machine, head)


class NpuSession:
    """One program with its head; see `Session`."""

    def __init__(
        self, variant: VariantDirectory, program: ProgramSession, machine: Failover, head: OnnxRuntimeSession | None
    ) -> None:
        self._config = variant.config
        self._program = program
        self._machine = machine
        self._head = head

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; see `Session.run`."""
        fitted = check_inputs(inputs, self._config.inputs)
        features: Tensors = dict(self._program.run(fitted))
        outputs = features
        if self._head is not None:
            available = {**fitted, **features}
            outputs = {**features, **self._head.run({spec.name: available[spec.name] for spec in self._head.inputs})}
        return {spec.name: outputs[spec.name] for spec in self._config.outputs}

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software; `featurizer` names the board or the functional model."""
        head = {"head": "none"} if self._head is None else {"head": "onnxruntime {version}".format(**self._head.describe())}
        threads = "none" if self._head is None else self._head.describe()["threads"]
        return {
            "backend": BackendName.NPU,
            "version": __version__,
            "threads": threads,
            "featurizer": self._machine.describe(),
            **head,
        }

    def close(self) -> None:
        """Release the board."""
        self._machine.close()
        if self._head is not None:
            self._head.close()


def _program(variant: VariantDirectory) -> NpuProgram:
    path = variant.file(LayerKind.NPU_PROGRAM)
    if not path.is_file():
        raise ModelError(f"{variant.path}: a variant for an NPU must hold {path.name}, but it does not")
    try:
        return read_program(path.read_bytes(), str(path))
    except PackageError as error:
        raise ModelError(str(error)) from error


def _profile(variant: VariantDirectory) -> NpuProfile:
    record = variant.config.properties.get(NPU_RECORD)
    if record is None:
        raise ModelError(f"{variant.path}: a variant for an NPU must have the property {NPU_RECORD}; compile it again")
    return wire.decode(record, NpuProfile, what=f"{variant.path}: {NPU_RECORD}", error=ModelError)


def _check_head(head: OnnxRuntimeSession | None, program: NpuProgram, variant: VariantDirectory) -> None:
    """Raise `ModelError` unless every input comes from the user or the program, and every output from the program or the head."""
    computed = {place.name for place in program.description.outputs}
    given = {spec.name for spec in variant.config.inputs}
    read = {place.name for place in program.description.inputs} | {spec.name for spec in _inputs(head)}
    missing = sorted((read - computed - given) | ({spec.name for spec in variant.config.outputs} - computed - _outputs(head)))
    if missing:
        raise ModelError(
            f"{variant.path}: program and head must fit together, but neither computes {missing[0]}; compile it again"
        )


def _inputs(head: OnnxRuntimeSession | None) -> Sequence[TensorSpec]:
    return () if head is None else head.inputs


def _outputs(head: OnnxRuntimeSession | None) -> set[str]:
    return set() if head is None else {spec.name for spec in head.outputs}
