"""The signal-to-quantization-noise ratio of values that are infinite, or too large for the square of a float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper

from edgewright.contracts.samples import Samples
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import CEILING_DB, decibels, tensor_sqnr
from tests.support.float_builds import float_model

ROWS = np.array([[1.0, 2.0, 0.0, 4.0]], np.float32)


def scaled_sqnr(factor: float, operator: str = "Mul", divisor: float = 1.0) -> float:
    """Return the SQNR of rows times a factor that is one percent too large, after another operator."""
    nodes = [helper.make_node("Mul", ["x", "f"], ["t"], name="t"), helper.make_node(operator, ["g", "t"], ["y"], name="y")]
    constants = [{"f": np.array(one, np.float32), "g": np.array(divisor, np.float32)} for one in (factor, factor * 1.01)]
    exact, rough = (ObservedGraph(float_model(nodes, some, ROWS)) for some in constants)
    return tensor_sqnr(exact, rough, Samples({"x": ROWS}))["y"]


@pytest.mark.parametrize("factor", [1.0, 1e-10, 1e25])
def test_values_of_any_size_have_their_ratio(factor: float) -> None:
    assert scaled_sqnr(factor) == pytest.approx(40.0, abs=0.1)


def test_infinite_values_do_not_count() -> None:
    assert scaled_sqnr(1.0, "Div") == pytest.approx(40.0, abs=0.2)


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(0.0, 0.0, CEILING_DB), (1.0, 0.0, CEILING_DB), (0.0, 1.0, 0.0), (1.0, math.inf, -CEILING_DB), (1.0, 1e300, -CEILING_DB)],
)
def test_every_pair_of_energies_has_a_ratio(signal: float, noise: float, expected: float) -> None:
    assert decibels(signal, noise) == expected
