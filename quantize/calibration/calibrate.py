"""Calibrate the tensors of a graph on real samples, and reject samples that cannot calibrate.

histograms.py collects values, in batches and in constant memory; thresholds.py chooses the range from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors, read_npz
from edgewright.contracts.stored_arrays import pieces
from edgewright.contracts.variant import LayerKind, TensorSpec
from edgewright.contracts.wire import decode
from edgewright.errors import PackageError, SamplesError
from edgewright.steps import step
from quantize.calibration.activations import BATCH_SIZE, ObservedGraph
from quantize.calibration.histograms import Range, collect_histograms, collect_ranges
from quantize.calibration.thresholds import Calibration, best_range

log = logging.getLogger(__name__)

RANGE_FACTOR = 50.0
"""Samples with a largest value this many times that of the golden ones must have another scale (255 for pixels)."""
CHANNEL_FACTOR = 20.0
"""The same for one channel of pictures."""


@step("the calibration")
def tensor_ranges(graph: ObservedGraph, samples: Samples, method: Calibration = Calibration.MINMAX) -> dict[str, Range]:
    """Return the range to cover for each float tensor of a graph; min-max is the full range, other methods clip outliers."""
    ranges = collect_ranges(graph, samples)
    if method is Calibration.MINMAX:
        return ranges
    histograms = collect_histograms(graph, samples, ranges)
    return ranges | {name: best_range(histogram, method) for name, histogram in histograms.items()}


def check_calibration(samples: Samples, build: BuildDirectory, where: Path) -> None:
    """Raise `SamplesError` unless the samples are finite, have the scale of the golden ones, and at least one input varies."""
    typical = _typical_inputs(build)
    extents = {name: _extent(array) for name, array in samples.inputs.items() if array.dtype.kind in "fiu"}
    for name, extent in extents.items():
        if not np.isfinite(extent).all():
            raise SamplesError(
                f"{where}: samples of {name} must be finite numbers, but some are NaN or infinite: leave those out"
            )
    _check_variation(extents, samples, where)
    for spec in build.record.inputs:
        if spec.name in typical and "channels" in spec.axes:
            _check_channels(spec, samples.inputs[spec.name], typical[spec.name], where)
    for name, extent in extents.items():
        if name in typical:
            _check_range(name, extent, typical[name], where)
    if samples.count < BATCH_SIZE:
        log.warning("few samples count=%d: give 100 or more that look like the real input", samples.count)


def _check_variation(extents: Mapping[str, tuple[float, float]], samples: Samples, where: Path) -> None:
    """Warn about each input with a single value (the token types of single sentences); refuse samples without another input."""
    constant = {name: low for name, (low, high) in extents.items() if low == high}
    if constant and len(constant) == len(samples.inputs):
        listed = " and ".join(constant)
        values = " and ".join(f"{value:g}" for value in dict.fromkeys(constant.values()))
        raise SamplesError(
            f"{where}: samples of {listed} must vary, but every value is {values}: give real samples of the model's input"
        )
    for name, value in constant.items():
        log.warning("constant input=%s value=%g: other values of this input are not calibrated", name, value)


def _extent(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if there is one."""
    extents = np.array([(piece.min(), piece.max()) for piece in pieces(array)])
    return float(extents[:, 0].min()), float(extents[:, 1].max())


def _typical_inputs(build: BuildDirectory) -> Tensors:
    """Return the golden inputs if they are real samples; generated ones have no typical range."""
    report = build.reports / "parity.json"
    golden = build.graph / LayerKind.GOLDEN_INPUTS.file_name
    if not report.is_file() or not golden.is_file():
        return {}
    parity: dict[str, Any] = decode(report.read_bytes(), dict, what=str(report), error=PackageError)
    return {} if parity.get("generated_samples", True) else read_npz(golden)


def _check_channels(spec: TensorSpec, array: npt.NDArray[Any], typical: npt.NDArray[Any], where: Path) -> None:
    """Refuse pictures in which one channel has another scale than the golden ones, relative to the other channels."""
    axis = spec.axes.index("channels")
    other = tuple(place for place in range(array.ndim) if place != axis)
    largest = np.max([np.abs(piece.astype(np.float64)).max(axis=other) for piece in pieces(array)], axis=0)
    expected = np.nanmax(np.abs(typical.astype(np.float64)), axis=other)
    ratios = largest / np.where(expected > 0, expected, np.nan)
    other_scale = np.flatnonzero((ratios <= 1 / CHANNEL_FACTOR) | (ratios >= CHANNEL_FACTOR))
    if 0 < len(other_scale) < len(ratios):  # all of them: the range of the whole input shows it
        channel = int(other_scale[0])
        raise SamplesError(
            f"{where}: channel {channel} of {spec.name} must have the range that the model was converted with, "
            f"up to {expected[channel]:g}, but it reaches {largest[channel]:g}: scale every channel as in training"
        )


def _check_range(name: str, extent: tuple[float, float], typical: npt.NDArray[Any], where: Path) -> None:
    (low, high), expected = extent, float(np.nanmax(np.abs(typical)))
    largest = max(abs(low), abs(high))
    if expected == 0 or 1 / RANGE_FACTOR < largest / expected < RANGE_FACTOR:
        return
    raise SamplesError(
        f"{where}: samples of {name} must be in the range that the model was converted with, "
        f"{typical.min():g} to {typical.max():g}, but they are {low:g} to {high:g}: scale them as in training"
    )
