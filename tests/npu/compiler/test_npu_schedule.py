"""Neighbouring layers share banks of accumulators, and the cycle model chooses the tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accel.npu import isa
from accel.npu.compiler.compile import compile_model
from accel.npu.compiler.fills import interleaved
from accel.npu.compiler.tile import Job, Work
from accel.npu.machines.host import Session
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from benchmarks.networks.npu_networks import INPUT, Network, quantize, reference

PROFILE = find_profile("ulx3s-85f")


def resnet_8(network: Network) -> str:
    """The image classifier of MLPerf Tiny."""
    pads, x = [1, 1, 1, 1], network.add("Relu", network.conv(INPUT, 3, 16, pads=[1, 1, 1, 1]))
    y = network.conv(network.add("Relu", network.conv(x, 16, 16, pads=pads)), 16, 16, pads=pads)
    x = network.add("Relu", network.add("Add", x, y))
    for inputs, outputs in ((16, 32), (32, 64)):
        y = network.add("Relu", network.conv(x, inputs, outputs, pads=[0, 0, 1, 1], strides=[2, 2]))
        y = network.conv(y, outputs, outputs, pads=pads)
        shortcut = network.conv(x, inputs, outputs, (1, 1), strides=[2, 2])
        x = network.add("Relu", network.add("Add", shortcut, y))
    return network.gemm(network.add("Flatten", network.add("GlobalAveragePool", x)), 64, 10)


def test_resnet_8_takes_at_most_52000_cycles_and_its_shortcuts_share_banks_with_convolutions() -> None:
    network = Network(3, 32, 32)
    quantized, images = quantize(network.model(resnet_8(network)), network.images(20)), network.images(20)
    program = compile_model(quantized, PROFILE).program
    cost = estimate(program, PROFILE)
    assert sum(layer.macs for layer in cost.layers) == 12_501_632
    assert cost.counters.cycles <= 52_000
    assert sum("+" in layer.name for layer in cost.layers) == 3
    name = program.description.outputs[0].name
    (expected,) = reference(quantized, images, [name])
    found = Session(FunctionalModel(PROFILE), program).run({INPUT: images})[name]
    steps = np.abs(np.rint((found - expected) / program.description.outputs[0].scale))
    assert steps.max() <= 2


def test_a_program_memory_that_is_too_small_for_the_fastest_program_gets_a_shorter_one() -> None:
    network = Network(3, 32, 32)
    quantized = quantize(network.model(resnet_8(network)), network.images(4))
    fastest = compile_model(quantized, PROFILE).program
    small = replace(PROFILE, instructions=1024)
    shorter = compile_model(quantized, small).program
    assert len(shorter.instructions) <= 1024 < len(fastest.instructions)
    assert estimate(shorter, small).counters.cycles > estimate(fastest, PROFILE).counters.cycles


def test_a_job_comes_two_fills_after_the_jobs_that_write_what_it_reads() -> None:
    first = [job(reads=100 + 8 * number, writes=200 + 8 * number) for number in range(6)]
    second = [job(reads=200 + 8 * number, writes=300 + 8 * number) for number in range(6)]
    assert destinations(first, second) == [[200], [208], [216, 300], [224, 308], [232, 316], [240, 324], [332], [340]]


def test_a_job_comes_two_fills_after_the_jobs_that_read_what_it_overwrites() -> None:
    first = [job(reads=100 + 8 * number, writes=200 + 8 * number) for number in range(6)]
    second = [job(reads=400, writes=116), job(reads=400, writes=100)]
    assert destinations(first, second) == [[200], [208], [216], [224], [232, 116], [240, 100]]


def test_jobs_that_do_not_fit_one_bank_together_share_none() -> None:
    assert interleaved([job(100, 2000, count=257)], [job(1000, 3000, count=256)], PROFILE) is None


def job(reads: int, writes: int, count: int = 8) -> Job:
    shape = isa.Shape(height=1, width=count, rows=1, columns=count, row_step=1, column_step=1, row_pitch=count, column_pitch=1)
    array_pass = isa.Gemm(base=reads, kernel_rows=1, kernel_columns=1)
    return Job(
        shape, (Work(None, array_pass),), None, isa.Vec(accumulator=0, count=count, parts=1, destination=writes, parameters=0)
    )


def destinations(first: list[Job], second: list[Job]) -> list[list[int]]:
    fills = interleaved(first, second, PROFILE)
    assert fills is not None
    return [[each.vector.destination for each in fill.emptyings] for fill in fills]
