"""Functions of one tensor as tables: segments, operators against ONNX Runtime, the RTL against the functional model."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from accel.npu.compiler.compile import compile_model
from accel.npu.lowering.functions import evaluate
from accel.npu.lowering.qdq import QdqGraph
from accel.npu.lowering.tables import segments
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import NpuProfile, find_profile
from benchmarks.networks.npu_networks import INPUT, Network, quantize
from tests.npu.compiler.test_npu_compiler import PROFILE, WIDE, NetworkOf, compiled, steps_apart

levels = st.integers(-128, 127)


@given(st.lists(levels, min_size=256, max_size=256), st.integers(1, 64))
@settings(max_examples=4, deadline=None)
def test_n47_the_segments_of_any_table_add_up_to_it(levels: list[int], run: int) -> None:
    table = np.repeat(levels, run)[:256]
    np.testing.assert_array_equal(table[0] + sum(segment.changes() for segment in segments(tuple(table))), table)


@given(st.floats(-0.5, 0.5), st.floats(0.02, 3), levels, st.booleans())
@settings(max_examples=8, deadline=None)
def test_n47_the_segments_of_a_smooth_table_add_up_to_it_and_are_few(center: float, slope: float, zero: int, falls: bool) -> None:
    curve = np.tanh(slope * (np.arange(-128, 128) / 64 - center)) * (-100 if falls else 100)
    table = np.clip(np.rint(curve) + zero, -128, 127).astype(np.int64)
    found = segments(tuple(table))
    np.testing.assert_array_equal(table[0] + sum(segment.changes() for segment in found), table)
    assert len(found) <= 32


def convolved(network: Network) -> str:
    return network.conv(INPUT, 3, 6)


def number(network: Network, value: float) -> str:
    return network.constant(np.array(value, np.float32))


def per_channel(network: Network, *slopes: float) -> str:
    return network.constant(np.array(slopes, np.float32).reshape(-1, 1, 1))


def silu(network: Network) -> str:
    x = convolved(network)
    return network.add("Mul", x, network.add("Sigmoid", x))


def mish(network: Network) -> str:
    x = convolved(network)
    return network.add("Mul", network.add("Tanh", network.add("Softplus", x)), x)


def gelu(network: Network) -> str:
    x = convolved(network)
    error = network.add("Erf", network.add("Div", x, number(network, 2**0.5)))
    return network.add("Mul", network.add("Mul", x, network.add("Add", error, number(network, 1))), number(network, 0.5))


def written_hard_swish(network: Network) -> str:
    x = convolved(network)
    inner = network.add("Clip", network.add("Add", x, number(network, 3)), number(network, 0), number(network, 6))
    return network.add("Mul", x, network.add("Div", inner, number(network, 6)))


FUNCTIONS: dict[str, NetworkOf] = {
    "LeakyRelu": lambda n: n.add("LeakyRelu", convolved(n)),
    "LeakyRelu, slope over 1": lambda n: n.add("LeakyRelu", convolved(n), alpha=2.5),
    "LeakyRelu, falling": lambda n: n.add("LeakyRelu", convolved(n), alpha=-0.4),
    "LeakyRelu, then Clip": lambda n: n.add("Clip", n.add("LeakyRelu", convolved(n)), number(n, -0.03), number(n, 1)),
    "PRelu": lambda n: n.add("PRelu", convolved(n), n.constant(np.array([0.2], np.float32))),
    "PRelu per channel": lambda n: n.add("PRelu", convolved(n), per_channel(n, 0.2, 0, 1.41421, 0.3, 0.01, 1)),
    "PRelu per channel, some falling": lambda n: n.add("PRelu", convolved(n), per_channel(n, 0.2, -0.4, 1.7, 0, -2, 1)),
    "PRelu per channel, then Clip": lambda n: n.add(
        "Clip", n.add("PRelu", convolved(n), per_channel(n, 0.2, -0.4, 1.7, 0, -2, 1)), number(n, -0.3), number(n, 0.8)
    ),
    "HardSigmoid": lambda n: n.add("HardSigmoid", convolved(n)),
    "HardSigmoid of PyTorch": lambda n: n.add("HardSigmoid", convolved(n), alpha=1 / 6),
    "HardSwish": lambda n: n.add("HardSwish", convolved(n)),
    "HardSwish, written out": written_hard_swish,
    "Sigmoid": lambda n: n.add("Sigmoid", convolved(n)),
    "Tanh": lambda n: n.add("Tanh", convolved(n)),
    "Elu": lambda n: n.add("Elu", convolved(n), alpha=0.7),
    "Selu": lambda n: n.add("Selu", convolved(n)),
    "Softplus": lambda n: n.add("Softplus", convolved(n)),
    "Softsign": lambda n: n.add("Softsign", convolved(n)),
    "Abs": lambda n: n.add("Abs", convolved(n)),
    "SiLU": silu,
    "Mish": mish,
    "GELU": gelu,
    "square": lambda n: (lambda x: n.add("Mul", x, x))(convolved(n)),
    "a product with a negative number": lambda n: n.add("Mul", convolved(n), number(n, -0.7)),
    "a difference from a number": lambda n: n.add("Sub", number(n, 1), convolved(n)),
    "Sigmoid of the input": lambda n: n.conv(n.add("Sigmoid", INPUT), 3, 4),
    "Sigmoid of flattened planes": lambda n: n.add("Sigmoid", n.add("Flatten", n.conv(INPUT, 3, 4, strides=[3, 3]))),
    "Clip of flattened planes": lambda n: n.add(
        "Clip", n.add("Flatten", n.conv(INPUT, 3, 4, strides=[3, 3])), number(n, -0.4), number(n, 0.6)
    ),
    "GlobalMaxPool": lambda n: n.add("GlobalMaxPool", convolved(n)),
    "ReduceMax": lambda n: n.add("ReduceMax", convolved(n), axes=[-1, -2], keepdims=0),
}


@pytest.mark.parametrize("profile", [PROFILE, WIDE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_n47_a_function_has_the_bits_of_onnxruntime(name: str, profile: NpuProfile) -> None:
    # Not always: a product in float32 may be rounded to the other side of a tie.
    result, quantized, images = compiled(FUNCTIONS[name], profile)
    apart = steps_apart(result, quantized, images, profile)
    assert not result.on_host
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < 0.002


def activations(network: Network) -> str:
    """A residual block with every kind of function, an addition after a table, a pooling and a classifier."""
    x = network.add("HardSwish", network.conv(INPUT, 3, 10, pads=[1, 1, 1, 1], strides=[2, 2]))
    y = network.add("PRelu", network.conv(x, 10, 10), per_channel(network, *np.linspace(-0.5, 1.5, 10)))
    y = network.add("Sigmoid", network.conv(y, 10, 10, pads=[2, 2, 2, 2], group=10))
    x = network.add("Add", x, network.add("HardSigmoid", y))
    x = network.add("GlobalMaxPool", network.add("LeakyRelu", network.conv(x, 10, 14, (1, 1))))
    return network.gemm(network.add("Tanh", network.add("Flatten", x)), 14, 10)


@pytest.mark.parametrize("profile_name", ["npu-sim-4", "npu-sim-8-paired", "npu-sim-8-mx"])
def test_n47_n94_functions_have_the_same_bits_and_the_predicted_cycles_in_the_rtl(
    profile_name: str, require: Callable[[str], Path]
) -> None:
    require("verilator")
    profile = find_profile(profile_name)
    result, quantized, images = compiled(activations, profile)
    assert not result.on_host
    rtl_simulator = RtlSimulator(profile)
    name = result.program.description.outputs[0].name
    rtl = Session(rtl_simulator, result.program).run({INPUT: images[:4]})[name]
    np.testing.assert_array_equal(rtl, Session(FunctionalModel(profile), result.program).run({INPUT: images[:4]})[name])
    assert rtl_simulator.counters == estimate(result.program, profile).counters
    rtl_simulator.close()
    assert np.abs(steps_apart(result, quantized, images, profile)).max() <= 4  # a step of difference grows in later layers


def test_n47_functions_of_a_network_in_external_memory_have_the_same_bits() -> None:
    """The planes do not fit on the chip, so the layers are streamed."""
    network = Network(3, 40, 40)
    x = network.add("HardSwish", network.conv(INPUT, 3, 16, pads=[1, 1, 1, 1]))
    model = network.model(network.conv(network.add("LeakyRelu", network.conv(x, 16, 16)), 16, 8))
    quantized, images = quantize(model, network.images(2)), network.images(2)
    small, large = find_profile("npu-sim-8-sdram"), find_profile("npu-sim-8-large")
    programs = [compile_model(quantized, profile).program for profile in (small, large)]
    streamed, on_chip = (
        Session(FunctionalModel(profile), program).run({INPUT: images})
        for profile, program in zip((small, large), programs, strict=True)
    )
    assert (len(programs[0].external) > 0, len(programs[1].external)) == (True, 0)
    for name, values in on_chip.items():
        np.testing.assert_array_equal(streamed[name], values)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(
            lambda n: n.add("PRelu", convolved(n), n.constant(np.full((6, 7, 9), 0.3, np.float32))),
            "the NPU supports PRelu with one constant slope, or with one per channel",
            id="a slope per element",
        ),
        pytest.param(
            lambda n: n.add("PRelu", convolved(n), n.constant(np.full(9, 0.3, np.float32))),
            "the NPU supports PRelu with one constant slope, or with one per channel",
            id="a slope per column",
        ),
        pytest.param(
            lambda n: n.add("Mul", convolved(n), per_channel(n, 1, 2, 3, 4, 5, 6)),
            "the NPU supports Mul of a tensor and a single number only",
            id="a number per channel",
        ),
        pytest.param(
            lambda n: n.add("Sin", n.add("Mul", convolved(n), number(n, 40))),
            "its table takes",
            id="a table of many segments",
        ),
        pytest.param(
            lambda n: n.add("ReduceMax", n.conv(INPUT, 3, 9), axes=[1, 3], keepdims=0),
            "the NPU reduces whole planes only",
            id="a maximum over channels and columns",
        ),
        pytest.param(
            lambda n: n.add("ReduceMean", n.conv(INPUT, 3, 7), axes=[1, 3], keepdims=0),
            "the NPU reduces whole planes only",
            id="an average over channels and columns whose result has as many channels",
        ),
    ],
)
def test_n47_what_is_no_function_of_one_value_stays_on_the_host(build: NetworkOf, reason: str) -> None:
    result, _, _ = compiled(build, PROFILE, count=4)
    assert [row.reason[: len(reason)] for row in result.on_host] == [reason]


def test_n47_a_function_that_is_part_of_another_one_takes_no_passes() -> None:
    result, _, _ = compiled(silu, PROFILE)
    assert [layer.operator for layer in result.program.description.layers] == ["Conv", "Mul"]
    assert [row.operator for row in result.coverage if row.on_npu] == ["Conv", "Sigmoid", "Mul"]


def test_n47_a_function_with_another_reader_is_computed_for_it() -> None:
    def gated(network: Network) -> str:
        x = convolved(network)
        gate = network.add("Sigmoid", x)
        return network.add("Add", network.add("Mul", x, gate), gate)

    result, quantized, images = compiled(gated, PROFILE)
    assert not result.on_host
    operators = "+".join(layer.operator for layer in result.program.description.layers).split("+")
    assert operators[:3] == ["Conv", "Sigmoid", "Mul"]
    assert np.abs(steps_apart(result, quantized, images, PROFILE)).max() <= 1


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_evaluated_although_its_meaning_depends_on_its_context(approximate: str) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    opset = helper.make_opsetid("", 20)
    graph = QdqGraph(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[opset]))
    x = np.linspace(-4, 4, 257).astype(np.float32)
    share = (
        [(1 + erf(each / 2**0.5)) / 2 for each in x]
        if approximate == "none"
        else (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
    )
    np.testing.assert_allclose(evaluate(graph, node, {"x": x}), x * share, atol=1e-6)
