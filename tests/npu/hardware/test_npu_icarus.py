"""The RTL in Icarus, an event-driven simulator: the same bits and the same cycles as in Verilator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from accel.npu import isa, registers
from accel.npu.arithmetic import Int8
from accel.npu.hardware.sources import RTL, rtl_parameters
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.timing import Counters, time_program
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import NpuProgram
from tests.support.random_programs import PLANE, memory_after, random_program

WORDS = 8 * PLANE
SEED = 0
"""Seed of a program with every instruction but DMA."""
BENCH = Path(__file__).parent / "icarus_bench.sv"
TALL = replace(find_profile("npu-sim-4"), name="npu-sim-16x4", rows=16)
COUNTERS = len(Counters.__slots__)


@pytest.fixture(scope="module", params=[TALL, find_profile("npu-sim-8-mx")], ids=lambda profile: profile.name)
def simulation(
    request: pytest.FixtureRequest, require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[NpuProfile, Path]:
    built = tmp_path_factory.mktemp("icarus") / "bench"
    sizes = {name: value for name, value in rtl_parameters(request.param).items() if isinstance(value, int)}
    settings = [f"-Picarus_bench.{name}={value}" for name, value in {**sizes, "WORDS": WORDS}.items()]
    sources = [str(path) for path in sorted(RTL.glob("*.sv"))]
    call(
        [str(require("iverilog")), "-g2012", f"-I{RTL}", "-s", "icarus_bench", "-o", str(built), *settings, *sources, str(BENCH)]
    )
    return request.param, built


def test_a_random_program_leaves_the_same_memory_and_counters_in_icarus(
    simulation: tuple[NpuProfile, Path], require: Callable[[str], Path], tmp_path: Path
) -> None:
    profile, built = simulation
    program, memory = random_program(SEED, profile)
    lines = [f"{region:02x}{address:06x}{word:08x}" for region, address, word in writes(program, memory)]
    (tmp_path / "writes.hex").write_text("\n".join(lines), encoding="ascii")
    output = call([str(require("vvp")), "-n", str(built), f"+file={tmp_path / 'writes.hex'}", f"+count={len(lines)}"])
    words = [int(line, 16) for line in output.split()]
    result = np.array(words[:-COUNTERS], "<u4").view(np.int8).reshape(-1, profile.columns)
    np.testing.assert_array_equal(result, memory_after(FunctionalModel(profile), program, memory)[: len(result)])
    assert Counters(*words[-COUNTERS:]) == time_program(isa.decode(program.instructions), profile).counters


def writes(program: NpuProgram, memory: Int8) -> Iterator[tuple[int, int, int]]:
    """Yield (region, address, word): the memories, then the start."""
    parameters = np.pad(program.parameters, ((0, 0), (0, 0), (0, 1)))
    contents: dict[int, npt.NDArray[np.generic]] = {
        registers.PROGRAM: program.instructions,
        registers.WEIGHTS: program.weights,
        # A residual may be read after the tensors, where the models hold 0.
        registers.ACTIVATIONS: np.pad(memory, ((0, len(memory)), (0, 0))),
        registers.PARAMETERS: parameters,
    }
    for region, values in contents.items():
        for address, word in enumerate(np.ascontiguousarray(values).reshape(-1).view(np.uint32)):
            yield region, address, int(word)
    yield registers.REGISTERS, registers.CONTROL, 1


def call(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
