"""Check a slot before the switch, where the models of this device run: in a worker process, or in a container.

Both load the variant and score its golden samples while the previous version continues to score.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.drivers.process import ModelFailedError, NotStartedError
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import Settings
from edge_agent.storage.store import read_record
from edge_agent.workers.requests import CheckRequest
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts.messages import FailureCause
from edgewright.errors import OperationError

_MEMORY_SHARE = 0.75
"""Part of the free memory that the check of a new version may use while another version scores."""


async def check_slot(slot: Path, settings: Settings, supervisor: Supervisor) -> WorkerResult:
    """Return the result of the check of a slot; a model that fails in a container is refused like one in a process."""
    if settings.container is None:
        request = CheckRequest(slot=str(slot), backend=settings.backend, threads=settings.threads)
        return await run_worker(
            "edge_agent.packages.check", request, timeout_s=settings.check_timeout_s, memory_share=_MEMORY_SHARE
        )
    record = read_record(slot)
    if record is None:
        return _failure(Failure.FAILED, "a file of the slot went missing before the check", FailureCause.DEVICE)
    try:
        await supervisor.rehearse(record)
    except NotStartedError as error:
        return _failure(Failure.OFFLINE, str(error), FailureCause.DEVICE)
    except ModelFailedError as error:
        return _failure(Failure.REFUSED, str(error), FailureCause.PACKAGE)
    except OperationError as error:
        return _failure(Failure.REFUSED, str(error), FailureCause.DEVICE)
    return WorkerResult(reason="the variant loads in a container, and scores its golden samples as its source does")


def _failure(failure: Failure, reason: str, cause: FailureCause) -> WorkerResult:
    return WorkerResult(failure=failure, reason=reason, cause=cause)
