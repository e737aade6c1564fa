"""The RTL equals the functional model bit for bit, and the cycle model cycle for cycle, on random programs (docs/spec/npu.md)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.npu import isa
from accel.npu.hardware import verilate
from accel.npu.hardware.sources import RTL
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.timing import time_program
from accel.npu.profile import NpuProfile, find_profile
from tests.support.random_programs import TALL, filled, memory_after, random_program

LARGE = replace(find_profile("ulx3s-85f"), name="npu-sim-32", rows=32, columns=32, vector_lanes=8)
MICROSCALING = find_profile("npu-sim-8-mx")
PROFILES = (find_profile("npu-sim-4"), TALL, MICROSCALING, find_profile("npu-sim-8-paired"))


@pytest.fixture(scope="module", params=PROFILES, ids=lambda profile: profile.name)
def rtl_simulator(request: pytest.FixtureRequest, require: Callable[[str], Path]) -> Iterator[RtlSimulator]:
    require("verilator")
    machine = RtlSimulator(request.param)
    yield machine
    machine.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, (1 << 64) - 1))
def test_n73_a_random_program_leaves_the_same_memory_and_counters_in_rtl_and_models(
    rtl_simulator: RtlSimulator, seed: int
) -> None:
    program, drawn = random_program(seed, rtl_simulator.profile)
    memory = filled(drawn, rtl_simulator.profile)
    expected = memory_after(FunctionalModel(rtl_simulator.profile), program, memory)
    np.testing.assert_array_equal(memory_after(rtl_simulator, program, memory), expected)
    assert rtl_simulator.counters == time_program(isa.decode(program.instructions), rtl_simulator.profile).counters


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile", [find_profile("colorlight-i9"), find_profile("ulx3s-85f"), LARGE], ids=lambda profile: profile.name
)
def test_a_random_program_agrees_on_large_arrays_too(profile: NpuProfile, require: Callable[[str], Path]) -> None:
    require("verilator")
    machine = RtlSimulator(profile)
    for seed in range(30):
        program, drawn = random_program(seed, profile)
        memory = filled(drawn, profile)
        expected = memory_after(FunctionalModel(profile), program, memory)
        np.testing.assert_array_equal(memory_after(machine, program, memory), expected, err_msg=f"seed {seed}")
        assert machine.counters == time_program(isa.decode(program.instructions), profile).counters
    machine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "original", "faulty"),
    [
        pytest.param("npu_vector.sv", "round_up <= follows || scaled[1];", "round_up <= 1;", id="half up"),
        pytest.param("npu_vector.sv", "add_round_up <= add_follows || add_scaled[1];", "add_round_up <= 0;", id="residual down"),
        pytest.param("npu_window.sv", "row_phase == 0 ? row_period - 1", "row_phase == 0 ? row_period", id="step of a window"),
        pytest.param("npu_window.sv", "index > {4'b0, kernel_columns}", "index > 1", id="line buffer read too early"),
        pytest.param("npu_depthwise.sv", "begins[stage] ? start", "begins[stage] ? 0", id="kernel rows not joined"),
        pytest.param("npu_shifts.sv", "shifts <= live_5;", "shifts <= live_4;", id="shifts ahead of their products"),
        pytest.param("npu_core.sv", "rows_left == 1) loading", "rows_left == 2) loading", id="one weight row too few"),
        pytest.param("npu_address.sv", "column <= tap_left;", "column <= left;", id="padding of the second tap"),
    ],
)
def test_a_fault_injected_into_the_rtl_is_detected(
    source: str, original: str, faulty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, require: Callable[[str], Path]
) -> None:
    require("verilator")
    broken = shutil.copytree(RTL, tmp_path / "rtl")
    text = (broken / source).read_text(encoding="utf-8")
    assert text.count(original) == 1
    (broken / source).write_text(text.replace(original, faulty), encoding="utf-8")
    monkeypatch.setattr(verilate, "RTL", broken)
    machine = RtlSimulator(MICROSCALING if source == "npu_shifts.sv" else TALL)
    drawn = (random_program(seed, machine.profile) for seed in range(40))
    runs = [(program, filled(memory, machine.profile)) for program, memory in drawn]
    differ = [
        program
        for program, memory in runs
        if not np.array_equal(
            memory_after(machine, program, memory), memory_after(FunctionalModel(machine.profile), program, memory)
        )
    ]
    machine.close()
    assert differ
