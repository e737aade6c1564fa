"""The rules that choose a range, on histograms with a known best range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from quantize.calibration.histograms import BINS, Histogram
from quantize.calibration.thresholds import Calibration, best_range

CLIPPING = [Calibration.PERCENTILE, Calibration.ENTROPY, Calibration.MSE]


def histogram(values: npt.NDArray[np.float64]) -> Histogram:
    counts, _ = np.histogram(values, BINS)
    return Histogram(float(values.min()), float(values.max()), counts.astype(np.int64))


def normal_with_an_outlier() -> npt.NDArray[np.float64]:
    return np.append(np.random.default_rng(0).normal(size=500_000), 60.0)


def rounding_error(values: npt.NDArray[np.float64], bounds: tuple[float, float]) -> float:
    step = (bounds[1] - bounds[0]) / 255
    zero = np.rint(-bounds[0] / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return float(np.square(rounded - values).mean())


def test_minmax_covers_everything_and_zero() -> None:
    assert best_range(histogram(np.linspace(2.0, 5.0, 100)), Calibration.MINMAX) == (0.0, 5.0)


@pytest.mark.parametrize("method", [Calibration.PERCENTILE, Calibration.ENTROPY], ids=str)
def test_a_lone_outlier_is_clipped_and_the_rest_kept(method: Calibration) -> None:
    low, high = best_range(histogram(normal_with_an_outlier()), method)
    assert -5.5 < low < -2.5
    assert 2.5 < high < 8.0


@pytest.mark.parametrize("method", CLIPPING, ids=str)
def test_uniform_values_are_hardly_clipped(method: Calibration) -> None:
    low, high = best_range(histogram(np.random.default_rng(0).uniform(-1.0, 3.0, 200_000)), method)
    assert low == pytest.approx(-1.0, abs=0.1)
    assert high == pytest.approx(3.0, abs=0.1)


def test_mse_has_a_smaller_error_than_minmax_with_outliers() -> None:
    values = normal_with_an_outlier()[:-1]
    tails = np.append(values, [25.0, -18.0])
    chosen, whole = (best_range(histogram(tails), method) for method in (Calibration.MSE, Calibration.MINMAX))
    assert rounding_error(tails, chosen) < rounding_error(tails, whole) / 2


def test_the_peak_of_relu_at_zero_does_not_affect_entropy() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=200_000), 0.0)
    low, high = best_range(histogram(values), Calibration.ENTROPY)
    assert low == 0.0
    assert high > 2.5


@pytest.mark.parametrize("method", list(Calibration), ids=str)
def test_values_of_one_sign_keep_zero_as_an_end(method: Calibration) -> None:
    assert best_range(histogram(np.linspace(-3.0, -1.0, 1000)), method)[1] == 0.0
