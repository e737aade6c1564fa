"""ResNet-50 in the RTL of the ulx3s-85f profile, with weights, tensors and program in SDRAM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from accel.npu.compiler.compile import compile_model
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from benchmarks.networks.npu_networks import INPUT, quantize, reference, resnet50


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_n94_n150_n154_resnet_50_has_the_same_bits_and_the_predicted_cycles_in_the_rtl(require: Callable[[str], Path]) -> None:
    require("verilator")
    profile = find_profile("ulx3s-85f")
    network, model = resnet50()
    image = network.images(1)
    quantized = quantize(model, image)
    compiled = compile_model(quantized, profile)
    assert not compiled.on_host
    place = compiled.program.description.outputs[0]
    expected = Session(FunctionalModel(profile), compiled.program).run({INPUT: image})[place.name]
    (theirs,) = reference(quantized, image, [place.name])
    assert np.corrcoef(expected.ravel(), theirs.ravel())[0, 1] > 0.99
    machine = RtlSimulator(profile, plain=True)
    answer = Session(machine, compiled.program).run({INPUT: image})[place.name]
    np.testing.assert_array_equal(answer, expected)
    cost = estimate(compiled.program, profile)
    assert machine.counters == cost.counters
    assert sum(layer.macs for layer in cost.layers) / (cost.counters.visits * profile.macs_per_cycle) > 0.9
    machine.close()
