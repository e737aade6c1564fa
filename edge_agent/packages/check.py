"""The worker that tries a staged slot before anything is switched: load it, score the golden samples, compare.

A model that crashes or hangs does so here, in a process that nobody waits for longer than its time, while the version before
goes on scoring.
"""

from __future__ import annotations

from pathlib import Path

from accel.backends.choose import load_session
from accel.golden import check_golden
from edge_agent.workers.orders import CheckOrder
from edge_agent.workers.worker import serve_order
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import OperationError, PackageError, StorageFullError


def check(order: CheckOrder) -> str:
    """Return what was found good; raise `PackageError` when the variant does not do what it should."""
    try:
        return _score_golden_samples(VariantDirectory.open(Path(order.slot)), order)
    except StorageFullError:
        raise
    except OperationError as failed:  # a backend that this machine lacks will not come by trying again
        raise PackageError(str(failed)) from failed


def _score_golden_samples(variant: VariantDirectory, order: CheckOrder) -> str:
    session = load_session(variant, backend=order.backend, threads=order.threads)
    try:
        if LayerKind.GOLDEN_INPUTS not in variant.layers():
            return "loaded; the package has no golden samples to compare with"
        found = check_golden(session, variant, variant.path)
    finally:
        session.close()
    if found.failure is not None:
        raise PackageError(f"variant {variant.config.variant} must score the golden samples as its source does: {found.failure}")
    return f"{found.sample_count} golden samples agree"


if __name__ == "__main__":
    serve_order(CheckOrder, check)
