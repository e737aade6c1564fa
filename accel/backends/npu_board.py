"""The `npu` backend: the featurizer on an FPGA board, the head on the processor; a disconnected board loses no request.

A variant for an NPU holds its program, the record of the NPU that it was compiled for, and the head as plain ONNX. If the host
also computes before or between the program's segments, the graphs of those parts are in a tar. The program runs on a board on a
serial line that identifies itself as that NPU. Without such a board the functional model computes the same
bits here, until a board answers (accel/npu/machines/failover.py). `describe` names the current one.

`EDGEWRIGHT_NPU_DEVICE` names the serial ports to try, separated by commas, or `none`; without it every USB serial port is probed
(accel/npu/link/discovery.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib.util import find_spec

from accel.backends.backend import Session
from accel.backends.onnxruntime_cpu import OnnxRuntimeSession, load_graph, open_runtime
from accel.npu.link.discovery import devices
from accel.npu.machines.failover import Failover
from accel.npu.machines.host import Session as ProgramSession
from accel.npu.machines.host import Step, run_in_turn
from accel.npu.machines.host_parts import read_archive
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram, read_program
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import BackendName, LayerKind, VariantConfig, VariantDirectory
from edgewright.errors import ModelError, OperationError, PackageError
from hardware_profiles.hardware_profile import NPU_RECORD

BOARD_LIMIT_S = 90.0
"""Time in which a benchmark waits for the first probe, which uploads the program."""


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
        """Load program and host parts and start the search for a board; raise `ModelError` if the files do not fit together."""
        program, profile = _load_program(variant)
        parts = _load_host_parts(variant, program, threads=threads)
        machine = Failover(profile, program, devices)
        return NpuSession(variant, ProgramSession(machine, program), machine, parts)


class NpuOnBoard(Npu):
    """The FPGA NPU on its board only, for benchmarks: the times of the functional model say nothing about a board."""

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load as `Npu` does, and wait for the board.

        Raises:
            ModelError: the files do not fit together.
            OperationError: no board is attached.
        """
        program, profile = _load_program(variant)
        parts = _load_host_parts(variant, program, threads=threads)
        machine = Failover(profile, program, devices)
        if not machine.wait_for_board(BOARD_LIMIT_S):
            reason = machine.describe()
            machine.close()
            raise OperationError(
                f"a benchmark must have a free board, but there is only the {reason}; a version that runs on the board keeps it"
            )
        return BoardSession(variant, ProgramSession(machine, program), machine, parts)


class NpuSession:
    """One program with the host's parts; see `Session`."""

    def __init__(
        self,
        variant: VariantDirectory,
        program: ProgramSession,
        machine: Failover,
        parts: Mapping[int, OnnxRuntimeSession],
    ) -> None:
        self._config = variant.config
        self._segments = program.steps
        self._machine = machine
        self._parts = parts

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; see `Session.run`."""
        fitted = check_inputs(inputs, self._config.inputs)
        tensors = run_in_turn(self._segments, _steps_of(self._parts), fitted)
        return {spec.name: tensors[spec.name] for spec in self._config.outputs}

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software; `featurizer` names the board or the functional model."""
        host = next((part.describe() for part in self._parts.values()), None)
        head = {"head": "none"} if host is None else {"head": "onnxruntime {version}".format(**host)}
        threads = "none" if host is None else host["threads"]
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
        for part in self._parts.values():
            part.close()


class BoardSession(NpuSession):
    """A session that fails when its board does, instead of continuing on the functional model."""

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch on the board; raise `OperationError` if the functional model computed it."""
        outputs = super().run(inputs)
        if self._machine.runs_on_model:
            raise OperationError(f"the board must run the whole benchmark, but it was lost: {self._machine.describe()}")
        return outputs


def _load_program(variant: VariantDirectory) -> tuple[NpuProgram, NpuProfile]:
    """Return the program of a variant and the NPU of its record; raise `ModelError` if they do not fit together."""
    program, profile = _program(variant), _profile(variant)
    program.check_profile(profile)
    return program, profile


def _load_host_parts(
    variant: VariantDirectory, program: NpuProgram, *, threads: int | None = None
) -> dict[int, OnnxRuntimeSession]:
    """Load the parts of the host by the number of the segment that follows; that of the head is the number of segments.

    Raises:
        ModelError: a file cannot be read, or the parts and the program do not fit together.
    """
    archive, head_path = variant.file(LayerKind.HOST_PARTS), variant.file(LayerKind.HEAD_GRAPH)
    parts = {
        at: OnnxRuntimeSession(open_runtime(archive, content=graph, threads=threads), archive, threads)
        for at, graph in read_archive(archive).items()
    }
    if head_path.is_file():
        parts[len(program.description.runs)] = load_graph(head_path, threads=threads)
    _check_order(parts, program, variant)
    return parts


def _steps_of(parts: Mapping[int, OnnxRuntimeSession]) -> dict[int, Step]:
    """Return the parts as steps that pick their inputs from all tensors."""
    return {at: partial(_run_part, part) for at, part in parts.items()}


def _run_part(part: OnnxRuntimeSession, tensors: Tensors) -> Tensors:
    return part.run({spec.name: tensors[spec.name] for spec in part.inputs})


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


def _check_order(parts: Mapping[int, OnnxRuntimeSession], program: NpuProgram, variant: VariantDirectory) -> None:
    """Raise `ModelError` unless every step reads what is given or was computed before, and all outputs are computed."""
    known = {spec.name for spec in variant.config.inputs}
    segments = program.description.runs
    for number in range(len(segments) + 1):
        part = parts.get(number)
        reads = {spec.name for spec in part.inputs} if part is not None else set()
        _check_known(reads, known, variant)
        known |= {spec.name for spec in part.outputs} if part is not None else set()
        if number < len(segments):
            _check_known(segments[number].inputs, known, variant)
            known.update(segments[number].outputs)
    _check_known([spec.name for spec in variant.config.outputs], known, variant)


def _check_known(read: Iterable[str], known: set[str], variant: VariantDirectory) -> None:
    missing = sorted(set(read) - known)
    if missing:
        raise ModelError(
            f"{variant.path}: program and head must fit together, but neither computes {missing[0]}; compile it again"
        )
