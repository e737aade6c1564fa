"""Calibrate the tensors of a graph on real samples, and reject samples that cannot calibrate.

histograms.py collects values, in batches and in constant memory; thresholds.py chooses the range from them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors, read_npz
from edgewright.contracts.stored_arrays import pieces
from edgewright.contracts.variant import LayerKind
from edgewright.contracts.wire import decode
from edgewright.errors import PackageError, SamplesError
from quantize.calibration.activations import BATCH_SIZE, ObservedGraph
from quantize.calibration.histograms import Range, collect_histograms, collect_ranges
from quantize.calibration.thresholds import Calibration, best_range

RANGE_FACTOR = 50.0
"""Samples with a largest value this many times that of the golden ones must have another scale (255 for pixels)."""


def tensor_ranges(graph: ObservedGraph, samples: Samples, method: Calibration = Calibration.MINMAX) -> dict[str, Range]:
    """Return the range to cover for each float tensor of a graph; min-max is the full range, other methods clip outliers."""
    ranges = collect_ranges(graph, samples)
    if method is Calibration.MINMAX:
        return ranges
    histograms = collect_histograms(graph, samples, ranges)
    return ranges | {name: best_range(histogram, method) for name, histogram in histograms.items()}


def check_calibration(samples: Samples, build: BuildDirectory, where: Path) -> None:
    """Raise `SamplesError` unless the samples are finite, vary, and have the scale of the golden ones."""
    typical = _typical_inputs(build)
    for name, array in samples.inputs.items():
        if array.dtype.kind not in "fiu":
            continue
        low, high = _extent(array)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise SamplesError(
                f"{where}: samples of {name} must be finite numbers, but some are NaN or infinite: leave those out"
            )
        if low == high:
            raise SamplesError(
                f"{where}: samples of {name} must vary, but every value is {low:g}: give real samples of the model's input"
            )
        if name in typical:
            _check_range(name, (low, high), typical[name], where)
    if samples.count < BATCH_SIZE:
        logging.getLogger(__name__).warning("few samples count=%d: give 100 or more that look like the real input", samples.count)


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


def _check_range(name: str, extent: tuple[float, float], typical: npt.NDArray[Any], where: Path) -> None:
    (low, high), expected = extent, float(np.abs(typical).max())
    largest = max(abs(low), abs(high))
    if expected == 0 or 1 / RANGE_FACTOR < largest / expected < RANGE_FACTOR:
        return
    raise SamplesError(
        f"{where}: samples of {name} must be in the range that the model was converted with, "
        f"{typical.min():g} to {typical.max():g}, but they are {low:g} to {high:g}: scale them as in training"
    )
