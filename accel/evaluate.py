"""Evaluate a variant: accuracy, agreement with the source model, difference of the outputs, latency.

The float variant stands for the source model: `convert` verified that their outputs match.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.backends.backend import Session
from accel.backends.choose import load_session
from accel.comparison import BATCH_SIZE, compare_outputs, measured, run_all
from accel.latency import measure_latency
from accel.sample_checks import warn_of_uninformative
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import Measured, VariantDirectory
from edgewright.steps import step

LATENCY_RUNS = 100
LATENCY_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyMs:
    """Percentiles of the time for one sample, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One object of `evaluate --json`."""

    variant: str
    backend: str
    precision: str
    count: int
    accuracy: float | None
    """None without labels."""
    agreement: float | None
    """Share of predicted classes that equal the source model's; None if no output predicts classes."""
    max_relative_difference: float
    latency_ms: LatencyMs
    error: float | None = None
    """Root mean square difference of predicted values, over their standard deviation; None without values."""
    constant: tuple[str, ...] = ()
    """Outputs that are the same for all samples although the source's are not."""

    def as_measured(self) -> Measured:
        """Return the part that is the same on every run, for a variant's config."""
        return Measured(
            sample_count=self.count,
            agreement=self.agreement,
            max_relative_difference=self.max_relative_difference,
            accuracy=self.accuracy,
            error=self.error,
        )


def evaluate_variant(
    variant: VariantDirectory, samples: Samples, reference: Tensors | None = None, *, backend: str | None = None
) -> tuple[Evaluation, Tensors]:
    """Score all samples once; return the evaluation against reference outputs and labels, and the outputs themselves.

    Args:
        variant: the variant to run.
        samples: inputs, and labels for the accuracy.
        reference: the outputs of the source model; None for the float variant, which stands for it.
        backend: the backend to run it with; None takes the variant's own, so that its config does not depend on the fastest one.

    Raises:
        ParityError: the outputs hold NaN or have the wrong shape.
        OperationError: the variant cannot be run.
    """
    with step(f"the evaluation of {variant.path}"):
        return _evaluated(variant, samples, reference, backend or variant.config.backend)


def _evaluated(
    variant: VariantDirectory, samples: Samples, reference: Tensors | None, backend: str
) -> tuple[Evaluation, Tensors]:
    session = load_session(variant, backend=backend)
    try:
        outputs = _outputs(session, variant, samples)
        if reference is None:
            warn_of_uninformative(session, samples, outputs, batch_size=_batch_size(variant))
        expected, specs = outputs if reference is None else reference, variant.config.outputs
        comparison = compare_outputs(expected, outputs, specs)
        result = measured(comparison, expected, outputs, samples.labels, specs)
        evaluation = Evaluation(
            variant=variant.config.variant,
            backend=session.describe()["backend"],
            precision=variant.config.precision.value,
            count=samples.count,
            accuracy=result.accuracy,
            agreement=result.agreement,
            max_relative_difference=result.max_relative_difference,
            latency_ms=_latency(session, samples),
            error=result.error,
            constant=comparison.constant,
        )
    finally:
        session.close()
    return evaluation, outputs


def reference_outputs(float_variant: VariantDirectory, samples: Samples) -> Tensors:
    """Return the outputs of the float variant, which stands for the source model."""
    session = load_session(float_variant, backend=float_variant.config.backend)
    try:
        outputs = _outputs(session, float_variant, samples)
        warn_of_uninformative(session, samples, outputs, batch_size=_batch_size(float_variant))
        return outputs
    finally:
        session.close()


def _outputs(session: Session, variant: VariantDirectory, samples: Samples) -> Tensors:
    return run_all(session, samples, batch_size=_batch_size(variant))


def _batch_size(variant: VariantDirectory) -> int:
    return BATCH_SIZE if variant.config.independent_samples else 1


def evaluation_row(evaluation: Evaluation, size_bytes: int) -> tuple[object, ...]:
    """Return the cells below `EVALUATION_COLUMNS`."""
    accuracy = None if evaluation.accuracy is None else f"{evaluation.accuracy:.2%}"
    return (
        evaluation.variant,
        evaluation.backend,
        accuracy,
        None if evaluation.agreement is None else f"{evaluation.agreement:.2%}",
        f"{evaluation.max_relative_difference:.1e}",
        f"{size_bytes / 1000:,.1f}",
        f"{evaluation.latency_ms.p50:.3f}",
        f"{evaluation.latency_ms.p95:.3f}",
    )


EVALUATION_COLUMNS = ("variant", "backend", "accuracy", "agreement", "difference", "size kB", "p50 ms", "p95 ms")


def _latency(session: Session, samples: Samples) -> LatencyMs:
    one = samples.slice(0, 1).inputs
    latency = measure_latency(lambda: session.run(one), runs=LATENCY_RUNS, time_limit_s=LATENCY_LIMIT_S)
    return LatencyMs(p50=latency.median_ms, p95=latency.p95_ms, p99=latency.p99_ms)
