"""Statistics of a scoring server: counts since its start, latency over the last requests, predictions by class.

An invalid request is counted as `rejected` and is no evidence about the model; a valid one that the model failed to answer is
counted as an `error`. The counts are plain integers, because every request updates them.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgewright.contracts.class_labels import names_of_indices, names_of_values
from edgewright.contracts.samples import Tensors
from edgewright.contracts.scoring_statistics import LatencyPercentiles, ScoringStatistics

WINDOW = 1024
"""Number of scored requests that the percentiles are computed over."""
MAX_CLASSES = 1000
OTHER = "other"
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The variant that a server runs: labels of its statistics."""

    model: str
    version: int
    variant: str
    backend: str
    precision: str


class Statistics:
    """Counts of one server; used from its event loop only."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._scored = self._samples = self._rejected = self._errors = 0
        self._seconds = 0.0
        self.decoding_s = self.encoding_s = 0.0
        """Time of scored requests before they wait for the model, and after their run."""
        self.last_scored_at_s = 0.0
        """Unix time of the last scored request; 0 before the first."""
        self._window_ms: deque[float] = deque(maxlen=WINDOW)
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._predictions: Counter[str] = Counter()

    def scored(self, samples: int, seconds: float, predictions: Sequence[str]) -> None:
        """Count one answered request."""
        self._scored += 1
        self._samples += samples
        self._seconds += seconds
        self.last_scored_at_s = time.time()
        self._window_ms.append(seconds * 1000)
        self._buckets[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        for label in predictions:
            has_room = label in self._predictions or len(self._predictions) < MAX_CLASSES
            self._predictions[label if has_room else OTHER] += 1

    @property
    def scored_count(self) -> int:
        """Number of answered requests."""
        return self._scored

    @property
    def sample_count(self) -> int:
        """Number of samples in the answered requests."""
        return self._samples

    @property
    def scored_s(self) -> float:
        """Seconds that the answered requests took together."""
        return self._seconds

    def steps(self, decoding_s: float, encoding_s: float) -> None:
        """Add the times of the steps of one answered request."""
        self.decoding_s += decoding_s
        self.encoding_s += encoding_s

    def rejected(self) -> None:
        """Count one invalid request."""
        self._rejected += 1

    def failed(self) -> None:
        """Count one valid request that the model failed to answer."""
        self._errors += 1

    def summary(self) -> ScoringStatistics:
        """Return the body of `GET /stats`."""
        return ScoringStatistics(
            model=self._served.model,
            version=self._served.version,
            variant=self._served.variant,
            backend=self._served.backend,
            precision=self._served.precision,
            count=self._scored,
            samples=self._samples,
            errors=self._errors,
            rejected=self._rejected,
            latency_ms=self._percentiles(),
            window_count=len(self._window_ms),
            predictions=dict(sorted(self._predictions.items())),
        )

    def prometheus(self) -> str:
        """Return the body of `GET /metrics`, in Prometheus' text format 0.0.4."""
        names = ("model", "version", "variant", "backend", "precision")
        labels = ",".join(f'{name}="{_escaped(getattr(self._served, name))}"' for name in names)
        lines = [
            "# HELP edgewright_model_info The variant that is served.",
            "# TYPE edgewright_model_info gauge",
            f"edgewright_model_info{{{labels}}} 1",
            "# HELP edgewright_requests_total Scoring requests by outcome.",
            "# TYPE edgewright_requests_total counter",
            f'edgewright_requests_total{{outcome="scored"}} {self._scored}',
            f'edgewright_requests_total{{outcome="rejected"}} {self._rejected}',
            f'edgewright_requests_total{{outcome="failed"}} {self._errors}',
            "# HELP edgewright_samples_total Samples scored.",
            "# TYPE edgewright_samples_total counter",
            f"edgewright_samples_total {self._samples}",
            "# HELP edgewright_predictions_total Samples by predicted class.",
            "# TYPE edgewright_predictions_total counter",
            *(
                f'edgewright_predictions_total{{label="{_escaped(label)}"}} {count}'
                for label, count in sorted(self._predictions.items())
            ),
            *self._histogram(),
        ]
        return "\n".join(lines) + "\n"

    def _percentiles(self) -> LatencyPercentiles:
        if not self._window_ms:
            return LatencyPercentiles(p50=None, p95=None, p99=None)
        p50, p95, p99 = np.percentile(np.array(self._window_ms), [50, 95, 99])
        return LatencyPercentiles(p50=float(p50), p95=float(p95), p99=float(p99))

    def _histogram(self) -> list[str]:
        name = "edgewright_request_seconds"
        lines = [f"# HELP {name} Time from the end of a request to its response.", f"# TYPE {name} histogram"]
        below = 0
        for bound, count in zip([*BUCKETS_S, "+Inf"], self._buckets, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{name}_sum {self._seconds}", f"{name}_count {self._scored}"]


def predicted_classes(outputs: Tensors, labels: Sequence[str], values: Sequence[str] = ()) -> list[str] | None:
    """Return the name (or number) of each sample's class; None if the first output is not a classification.

    Args:
        outputs: of the model.
        labels: names of the classes, or none.
        values: the classes' values in the source, if the names are others.
    """
    first = next(iter(outputs.values()))
    if first.ndim == 2:
        flat = first
    elif max(first.shape[2:], default=1) > 1:  # an image or a sequence has no single class
        return None
    else:
        flat = first.reshape(len(first), -1)
    if first.dtype.kind == "f":
        return names_of_indices(flat.argmax(axis=1), labels) if flat.shape[1] > 1 else None
    return names_of_values(flat[:, 0], labels, values) if flat.shape[1] == 1 else None


def _escaped(value: object) -> str:
    return str(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
