"""npu-int8 of networks that begin with a pooling or an activation: they run on the NPU from their first operator on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.npu.profile import find_profile
from benchmarks.networks.npu_networks import INPUT, Network
from edgewright.compiling import compile_variant
from edgewright.contracts.samples import write_npz
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.npu_builds import make_build
from tests.support.quantize_builds import functional_evaluation

PROFILE = find_profile("npu-sim-8-large")


def limits(network: Network, *numbers: float) -> tuple[str, ...]:
    return tuple(network.constant(np.array(number, np.float32)) for number in numbers)


def around(network: Network) -> str:
    return network.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))


HALF: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
FIRST: dict[str, Callable[[Network], str]] = {
    "MaxPool": lambda n: n.add("MaxPool", INPUT, **HALF),
    "AveragePool": lambda n: n.add("AveragePool", INPUT, **HALF),
    "Relu": lambda n: n.add("Relu", INPUT),
    "Clip": lambda n: n.add("Clip", INPUT, *limits(n, -1, 1)),
    "HardSwish": lambda n: n.add("HardSwish", INPUT),
    "Tanh": lambda n: n.add("Tanh", INPUT),
    "Pad, then MaxPool": lambda n: n.add("MaxPool", n.add("Pad", INPUT, around(n)), **HALF),
    "Relu, then MaxPool": lambda n: n.add("MaxPool", n.add("Relu", INPUT), **HALF),
}


@pytest.mark.parametrize("name", FIRST)
def test_a_network_runs_on_the_npu_from_its_first_operator_on(name: str, tmp_path: Path) -> None:
    network = Network(3, 12, 12)
    features = network.add("GlobalAveragePool", network.conv(FIRST[name](network), 3, 5))
    model, images = network.model(network.gemm(network.add("Flatten", features), 5, 4)), network.images(100)
    write_npz(tmp_path / "x.npz", {INPUT: images})
    build = make_build(tmp_path / "build", model, {INPUT: images[:8]})
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    evaluation = functional_evaluation(build, "npu-int8")
    assert evaluation is not None
    assert evaluation.on_host == ()
    assert evaluation.max_relative_difference < 0.06
    assert not [row for row in compile_variant(build, PROFILE).coverage if not row.on_npu]


def test_what_stays_on_the_host_is_not_rounded(tmp_path: Path) -> None:
    """A normalization that is written out: rounding the variance to int8 would divide by 0."""
    network = Network(3, 12, 12)
    x = network.conv(INPUT, 3, 5)
    centered = network.add("Sub", x, network.add("ReduceMean", x, axes=[1]))
    variance = network.add("ReduceMean", network.add("Mul", centered, centered), axes=[1])
    deviation = network.add("Sqrt", network.add("Add", variance, *limits(network, 1e-5)))
    model, images = network.model(network.add("Div", centered, deviation)), network.images(100)
    write_npz(tmp_path / "x.npz", {INPUT: images})
    build = make_build(tmp_path / "build", model, {INPUT: images[:8]})
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    evaluation = functional_evaluation(build, "npu-int8")
    assert evaluation is not None
    assert evaluation.max_relative_difference < 0.5
