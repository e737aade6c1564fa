"""Measure the signal-to-quantization-noise ratio (SQNR) of a variant, layer by layer.

The SQNR is 10 log10(sum of float values squared / sum of differences squared), in dB; six decibels are a bit. Both graphs run on
the same samples side by side, and only two sums per tensor are kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from edgewright.contracts.samples import Samples, Tensors
from quantize.calibration.activations import ObservedGraph

CEILING_DB = 150.0
"""The SQNR of equal tensors: float32 itself has about this much."""
SAMPLE_LIMIT = 128
"""Samples of a measurement; more of them change the SQNR by less than it varies between data sets."""

_READ_AS = ("{0}_DequantizeLinear_Output", "{0}/dq", "{0}/half", "{0}")
"""Names in a variant for a tensor of the float graph: dequantized, in half precision, or unchanged."""


class Observed(Protocol):
    """A graph whose inner tensors can be read, on any runtime."""

    @property
    def tensors(self) -> Sequence[str]:
        """The names of the readable tensors."""

    def run(self, inputs: Tensors, tensors: Sequence[str]) -> Tensors:
        """Return the values of `tensors`."""


_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSqnr:
    """The SQNR of the output of one operator in a variant."""

    node: str
    operator: str
    tensor: str
    sqnr_db: float


def layer_sqnr(model: onnx.ModelProto, float_graph: ObservedGraph, variant: ObservedGraph, samples: Samples) -> list[LayerSqnr]:
    """Return the SQNR after each operator of the float `model` that the variant still has, in the order of the graph."""
    measured = tensor_sqnr(float_graph, variant, samples)
    return [
        LayerSqnr(node=node.name, operator=node.op_type, tensor=name, sqnr_db=measured[name])
        for node in model.graph.node
        for name in node.output
        if name in measured
    ]


def tensor_sqnr(
    float_graph: ObservedGraph,
    variant: Observed,
    samples: Samples,
    tensors: Collection[str] | None = None,
) -> dict[str, float]:
    """Return the SQNR in dB of every tensor that both graphs have, or only of `tensors`."""
    pairs = {name: twin for name, twin in _pairs(float_graph, variant).items() if tensors is None or name in tensors}
    subset = evenly_spaced(samples)
    signal, noise = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for inputs in float_graph.batches(subset, list(pairs), "measuring SQNR"):
        expected = float_graph.run(inputs, list(pairs))
        actual = variant.run(inputs, list(pairs.values()))
        for name, twin in pairs.items():
            of_signal, of_noise = _energies(expected[name], actual[twin])
            signal[name] += of_signal
            noise[name] += of_noise
    return {name: decibels(signal[name], noise[name]) for name in pairs}


def _energies(expected: _Array, actual: _Array) -> tuple[float, float]:
    """Return the energy of the expected finite numbers and that of the differences from them; infinity if one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        signal, noise = _energy(expected, np.float32), _energy(expected - actual, np.float32)
        if math.isfinite(signal) and math.isfinite(noise):
            return signal, noise
        finite = np.isfinite(expected)
        exact, other = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
        noise = _energy(exact - other, np.float64)
    return _energy(exact, np.float64), noise if math.isfinite(noise) else math.inf


def _energy(array: _Array, dtype: type[np.floating[Any]]) -> float:
    flat = array.reshape(-1).astype(dtype, copy=False)
    return float(np.vdot(flat, flat))


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two energies in dB: 0 without signal, at most `CEILING_DB` and at least its negative."""
    if noise <= 0:
        return CEILING_DB
    if signal <= 0:
        return 0.0
    ratio = signal / noise
    return max(-CEILING_DB, min(CEILING_DB, 10 * math.log10(ratio))) if ratio > 0 else -CEILING_DB


def evenly_spaced(samples: Samples, limit: int = SAMPLE_LIMIT) -> Samples:
    """Return at most `limit` samples, evenly spaced, because files are often sorted by label."""
    if samples.count <= limit:
        return samples
    return samples.take(np.linspace(0, samples.count - 1, limit).astype(int))


def _pairs(float_graph: ObservedGraph, variant: Observed) -> Mapping[str, str]:
    """Return the tensors that both graphs have, with the name of each in the variant."""
    available = set(variant.tensors)
    twins = {name: [form.format(name) for form in _READ_AS if form.format(name) in available] for name in float_graph.tensors}
    return {name: names[0] for name, names in twins.items() if names and name not in float_graph.inputs}
