"""ResNet-50 on the NPU with external memory: cycles and bytes per layer, and with `--rtl` all of it in the RTL.

Weights are random (they do not change the time); the input is 224 x 224. Nothing here was measured on a board: cycles are the
cycle model's, which equal the RTL's counters; milliseconds are those cycles at the profile's clock.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np

from accel.npu.compiler.compile import compile_model
from accel.npu.machines.emulator import Emulator
from accel.npu.machines.host import Session
from accel.npu.model.report import estimate
from accel.npu.model.simulator import Simulator
from accel.npu.profile import find_profile
from tests.npu.networks import INPUT, quantize, reference, resnet50


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
    with _Took("compiled"):
        compiled = compile_model(quantized, profile)
    cost = estimate(compiled.program, profile)
    for layer in cost.layers:
        print(
            f"{layer.name:24s} {layer.operator:18s} {layer.cycles:9d} cycles  MAC use {layer.mac_use:6.1%}  "
            f"{layer.moved_bytes / 1e6:6.2f} MB moved"
        )
    counters, macs = cost.counters, sum(layer.macs for layer in cost.layers)
    print(f"{profile.name}: {counters}")
    print(
        f"{counters.cycles} cycles, {cost.compute_ms:.1f} ms at {cost.clock_mhz:g} MHz [{cost.basis}]; {macs / 1e9:.2f} G MAC; "
        f"MAC use {cost.mac_use:.1%} of all cycles, {macs / (counters.visits * profile.macs_per_cycle):.1%} within array passes; "
        f"{cost.moved_bytes / 1e6:.1f} MB moved, memory busy in {counters.transfer_cycles / counters.cycles:.1%} of the cycles; "
        f"program file {cost.program_bytes / 1e6:.1f} MB; on the host: {[row.layer for row in compiled.on_host] or 'nothing'}"
    )
    place = compiled.program.description.outputs[0]
    simulator = Session(Simulator(profile), compiled.program)
    with _Took("functional model, one image"):
        expected = simulator.run({INPUT: image})[place.name]
    steps = np.abs(np.rint((expected - reference(quantized, image, [place.name])[0]) / place.scale))
    print(f"against onnxruntime's QDQ: {np.mean(steps == 0):.1%} of the outputs equal, {steps.max():.0f} steps apart at most")
    if chosen.rtl:
        machine = Emulator(profile, plain=True)
        hardware = Session(machine, compiled.program)
        with _Took("RTL, one image"):
            answer = hardware.run({INPUT: image})[place.name]
        print(
            f"outputs equal: {np.array_equal(answer, expected)}; counters equal the cycle model: {machine.counters == counters}"
        )


class _Took:
    """Prints how long something took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, busy = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        print(f"{self._what}: {busy:.1f} s of processor time, {wall:.1f} s")


if __name__ == "__main__":
    main()
