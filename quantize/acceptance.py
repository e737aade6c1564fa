"""Accept a new variant, or refuse it: its loss of accuracy, outputs without information, and its tolerance on other devices."""

from __future__ import annotations

from collections.abc import Sequence

from accel.backends.choose import load_session
from accel.comparison import BATCH_SIZE, compare_outputs, quality, run_all
from accel.evaluate import Evaluation
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import load_samples, read_npz
from edgewright.contracts.variant import LayerKind, Measured, Precision, Tolerance, VariantDirectory
from edgewright.errors import ParityError
from quantize.npu.functional import FunctionalEvaluation

FP16_DIFFERENCE = 1e-2
AGREEMENT_MARGIN = 0.1
DIFFERENCE_MARGIN = 4.0


def check_drops(
    evaluations: Sequence[Evaluation | FunctionalEvaluation | None], baseline: Evaluation, max_drop: float | None
) -> None:
    """Raise `ParityError` if an evaluation loses more than `max_drop`, or an output carries no information."""
    for evaluation in evaluations:
        if evaluation is not None:
            _check_information(evaluation)
            if max_drop is not None:
                _check_drop(evaluation, baseline, max_drop)


def _check_information(evaluation: Evaluation | FunctionalEvaluation) -> None:
    """Raise `ParityError` if an output is the same for all samples, although the source's is not."""
    if evaluation.constant:
        raise ParityError(
            f"{evaluation.variant} must give outputs that depend on its inputs, but {', '.join(evaluation.constant)} is the same "
            f"for all {evaluation.count} samples: use fp16, or more samples of the real range"
        )


def _check_drop(evaluation: Evaluation | FunctionalEvaluation, baseline: Evaluation, max_drop: float) -> None:
    before = 1.0 if baseline.accuracy is None else baseline.accuracy
    measure, after = quality(_measured(evaluation))
    if before - after > max_drop:
        where = f" on the {evaluation.backend}" if isinstance(evaluation, FunctionalEvaluation) else ""
        raise ParityError(
            f"{evaluation.variant}{where} may lose at most {max_drop:.2%} of {measure}, "
            f"but it falls from {before:.2%} to {after:.2%}: "
            "allow more with --max-drop, give more samples, or use fp16"
        )


def _measured(evaluation: Evaluation | FunctionalEvaluation) -> Measured:
    return Measured(
        sample_count=evaluation.count,
        agreement=evaluation.agreement,
        max_relative_difference=evaluation.max_relative_difference,
        accuracy=evaluation.accuracy,
        error=evaluation.error,
    )


def tolerance_of(build: BuildDirectory, variant: VariantDirectory, evaluation: Evaluation) -> Tolerance:
    """Return the variant's distance on the golden samples plus a margin for other processors; a broken one is far outside."""
    golden = load_samples(build.graph / LayerKind.GOLDEN_INPUTS.file_name, variant.config.inputs)
    expected = read_npz(build.graph / LayerKind.GOLDEN_OUTPUTS.file_name)
    session = load_session(variant, backend=evaluation.backend)
    try:
        batch_size = BATCH_SIZE if variant.config.independent_samples else 1
        distance = compare_outputs(expected, run_all(session, golden, batch_size=batch_size), variant.config.outputs)
    finally:
        session.close()
    if (
        variant.config.precision is Precision.FP16
        and distance.max_relative_difference < FP16_DIFFERENCE / 2
        and distance.agreement in (1.0, None)
    ):
        return Tolerance(max_relative_difference=FP16_DIFFERENCE, min_agreement=distance.agreement or 0.0)
    return Tolerance(
        max_relative_difference=max(
            DIFFERENCE_MARGIN * distance.max_relative_difference,
            DIFFERENCE_MARGIN / 2 * evaluation.max_relative_difference,
            FP16_DIFFERENCE,
        ),
        min_agreement=max(0.0, (distance.agreement or 0.0) - AGREEMENT_MARGIN),
    )
