"""Worker that checks a slot before the switch: load its variant, score the golden samples, compare the outputs.

A model that crashes or hangs does so in this subprocess with a timeout, while the previous version continues to score.
"""

from __future__ import annotations

from pathlib import Path

from accel.backends.choose import load_session
from accel.golden import check_golden
from edge_agent.workers.requests import CheckRequest
from edge_agent.workers.worker import serve_request
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import BadInputError, InferenceError, OperationError, PackageError, StorageFullError
from hardware_profiles.memory import prefer_for_oom_killer


def check(request: CheckRequest) -> str:
    """Load the variant and score its golden samples; return the result as text.

    Raises:
        PackageError: the variant cannot be loaded, or its outputs differ by more than the tolerance.
        BadInputError: this device lacks the backend.
    """
    try:
        return _score_golden_samples(VariantDirectory.open(Path(request.slot)), request)
    except StorageFullError:
        raise
    except InferenceError as error:
        raise PackageError(str(error)) from error
    except OperationError as error:  # a missing backend does not appear on a retry
        raise BadInputError(str(error)) from error


def _score_golden_samples(variant: VariantDirectory, request: CheckRequest) -> str:
    session = load_session(variant, backend=request.backend, threads=request.threads)
    try:
        if LayerKind.GOLDEN_INPUTS not in variant.layers():
            return "the variant loads; the package has no golden samples"
        comparison = check_golden(session, variant, variant.path)
    finally:
        session.close()
    if comparison.failure is not None:
        raise PackageError(
            f"variant {variant.config.variant} must score the golden samples as its source does: {comparison.failure}"
        )
    return f"{comparison.sample_count} golden samples match"


def _serve(request: CheckRequest) -> str:
    prefer_for_oom_killer()
    return check(request)


if __name__ == "__main__":
    serve_request(CheckRequest, _serve)
