"""Measure a variant: accuracy, agreement with the source model, distance of the outputs, latency.

The float variant stands for the source model: `convert` proved that they say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.backends.backend import Session
from accel.backends.choose import load_session
from accel.latency import measure_latency
from accel.measure import measured, run_all
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import Measured, VariantDirectory

LATENCY_RUNS = 100
LATENCY_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyMs:
    """Percentiles of the time for one sample."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One object of `evaluate --json` (docs: the design, section 6)."""

    variant: str
    backend: str
    precision: str
    count: int
    accuracy: float | None
    """None without labels."""
    agreement: float
    """Share of samples whose predicted label equals the source model's."""
    max_relative_difference: float
    latency_ms: LatencyMs

    def as_measured(self) -> Measured:
        """Return the part that is the same on every run, for a variant's config."""
        return Measured(
            sample_count=self.count,
            agreement=self.agreement,
            max_relative_difference=self.max_relative_difference,
            accuracy=self.accuracy,
        )


def evaluate_variant(
    variant: VariantDirectory, samples: Samples, reference: Tensors, *, backend: str | None = None
) -> Evaluation:
    """Run a variant over all samples and compare with the reference outputs and the labels.

    `backend` None takes the variant's own: what is found goes into its config and must not depend on today's fastest.

    Raises:
        ParityError: its outputs hold NaN or have another shape.
        OperationError: it cannot be run.
    """
    session = load_session(variant, backend=backend or variant.config.backend)
    try:
        found = measured(reference, run_all(session, samples), samples.labels)
        return Evaluation(
            variant=variant.config.variant,
            backend=session.describe()["backend"],
            precision=variant.config.precision.value,
            count=found.sample_count,
            accuracy=found.accuracy,
            agreement=found.agreement,
            max_relative_difference=found.max_relative_difference,
            latency_ms=_latency(session, samples),
        )
    finally:
        session.close()


def reference_outputs(float_variant: VariantDirectory, samples: Samples) -> Tensors:
    """Return what the source model says, as the float variant says it."""
    session = load_session(float_variant, backend=float_variant.config.backend)
    try:
        return run_all(session, samples)
    finally:
        session.close()


def evaluation_row(evaluation: Evaluation, size_bytes: int) -> tuple[object, ...]:
    """Return the cells under `EVALUATION_COLUMNS`."""
    accuracy = None if evaluation.accuracy is None else f"{evaluation.accuracy:.2%}"
    return (
        evaluation.variant,
        evaluation.backend,
        accuracy,
        f"{evaluation.agreement:.2%}",
        f"{evaluation.max_relative_difference:.1e}",
        f"{size_bytes / 1000:,.1f}",
        f"{evaluation.latency_ms.p50:.3f}",
        f"{evaluation.latency_ms.p95:.3f}",
    )


EVALUATION_COLUMNS = ("variant", "backend", "accuracy", "agreement", "difference", "size kB", "p50 ms", "p95 ms")


def _latency(session: Session, samples: Samples) -> LatencyMs:
    one = samples.slice(0, 1).inputs
    taken = measure_latency(lambda: session.run(one), runs=LATENCY_RUNS, time_limit_s=LATENCY_LIMIT_S)
    return LatencyMs(p50=taken.median_ms, p95=taken.p95_ms, p99=taken.p99_ms)
