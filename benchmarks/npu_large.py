"""ResNet-50 on the NPU with external memory: cycles and bytes per layer, and with `--rtl` all of it in the RTL.

`once MB` counts every word that a layer reads or writes once, as a lower bound of the moved bytes. `array` are the cycles in
which the array reads a vector, `memory` those that the transfers alone take; the larger of the two is the time of the layer if
both overlapped perfectly.

Weights are random (they do not change the time); the input is 224 x 224. Nothing here was measured on a board: cycles are those
of the cycle model, which equal the RTL's counters; milliseconds are those cycles at the profile's clock.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

import numpy as np

from accel.npu import isa
from accel.npu.compiler.compile import compile_model
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.memory_timing import MemoryClock
from accel.npu.model.report import Estimate, estimate
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import NpuProgram
from benchmarks.networks.npu_networks import INPUT, quantize, reference, resnet50


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ulx3s-85f")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    parser.add_argument("--rtl", action="store_true", help="run the RTL too, and compare bits and counters")
    chosen = parser.parse_args()
    profile = find_profile(chosen.profile)
    network, model = resnet50(chosen.size)
    image = network.images(1)
    quantized = quantize(model, image)
    with _Timer("compiled"):
        compiled = compile_model(quantized, profile)
    cost = estimate(compiled.program, profile)
    _print_layers(compiled.program, cost, profile)
    counters, macs = cost.counters, sum(layer.macs for layer in cost.layers)
    print(f"{profile.name}: {counters}")
    print(
        f"{counters.cycles} cycles, {cost.compute_ms:.1f} ms at {cost.clock_mhz:g} MHz [{cost.basis}]; {macs / 1e9:.2f} G MAC; "
        f"MAC utilization {cost.mac_use:.1%} of all cycles, "
        f"{macs / (counters.visits * profile.macs_per_cycle):.1%} within array passes; "
        f"{cost.moved_bytes / 1e6:.1f} MB moved, memory busy in {counters.transfer_cycles / counters.cycles:.1%} of the cycles; "
        f"program file {cost.program_bytes / 1e6:.1f} MB; on the host: {[row.layer for row in compiled.on_host] or 'nothing'}"
    )
    place = compiled.program.description.outputs[0]
    functional = Session(FunctionalModel(profile), compiled.program)
    with _Timer("functional model, one image"):
        expected = functional.run({INPUT: image})[place.name]
    steps = np.abs(np.rint((expected - reference(quantized, image, [place.name])[0]) / place.scale))
    print(f"against onnxruntime's QDQ: {np.mean(steps == 0):.1%} of the outputs equal, {steps.max():.0f} steps apart at most")
    if chosen.rtl:
        machine = RtlSimulator(profile, plain=True)
        hardware = Session(machine, compiled.program)
        with _Timer("RTL, one image"):
            answer = hardware.run({INPUT: image})[place.name]
        print(
            f"outputs equal: {np.array_equal(answer, expected)}; counters equal the cycle model: {machine.counters == counters}"
        )


def _print_layers(program: NpuProgram, cost: Estimate, profile: NpuProfile) -> None:
    instructions = executed(program, profile)
    titles = ("cycles", "array", "memory", "read MB", "written MB", "once MB", "MAC utilization")
    print(f"{'layers':32s}", *(f"{title:>10s}" for title in titles))
    for layer, record in zip(cost.layers, program.description.layers, strict=True):
        own = instructions[record.first : record.last]
        moved = [instruction for instruction in own if isinstance(instruction, isa.Dma)]
        written = sum(transfer.words * transfer.runs for transfer in moved if transfer.store)
        read = sum(transfer.words * transfer.runs for transfer in moved) - written
        cycles = (layer.cycles, _visits(own, instructions[: record.first]), _memory_cycles(moved, profile))
        megabytes = (words * 4 / 1e6 for words in (read, written, _words_once(moved, profile)))
        numbers = [*(f"{count:10d}" for count in cycles), *(f"{size:10.2f}" for size in megabytes), f"{layer.mac_use:10.1%}"]
        print(f"{layer.name:32s}", *numbers)


def _visits(own: Sequence[isa.Instruction], before: Sequence[isa.Instruction]) -> int:
    shape = next((instruction for instruction in reversed(before) if isinstance(instruction, isa.Shape)), None)
    positions, total = shape.rows * shape.columns if shape else 0, 0
    for instruction in own:
        if isinstance(instruction, isa.Shape):
            positions = instruction.rows * instruction.columns
        elif isinstance(instruction, isa.ArrayPass):
            total += positions * instruction.kernel_rows * instruction.kernel_columns
    return total


def _memory_cycles(transfers: Sequence[isa.Dma], profile: NpuProfile) -> int:
    clock = MemoryClock(profile.refresh_cycles)
    for transfer in transfers:
        clock.issue(transfer, 0)
    return clock.busy_cycles


def _words_once(transfers: Sequence[isa.Dma], profile: NpuProfile) -> int:
    """Count the words of the external memory that are read, and those that are written; instructions are not counted."""
    total = 0
    for store in (0, 1):
        touched = np.zeros(profile.external_words, np.bool_)
        for transfer in transfers:
            if transfer.store != store or transfer.region == isa.Region.PROGRAM:
                continue
            for run in range(transfer.runs):
                first = transfer.external + run * transfer.external_pitch
                touched[first : first + transfer.words] = True
        total += int(touched.sum())
    return total


class _Timer:
    """Context manager that prints processor time and elapsed time."""

    def __init__(self, title: str) -> None:
        self._title = title

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, busy = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        print(f"{self._title}: {busy:.1f} s of processor time, {wall:.1f} s")


if __name__ == "__main__":
    main()
