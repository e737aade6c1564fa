"""Rules of an endpoint: the next step for each combination of stored and observed facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud.endpoints.rules import (
    BuildImage,
    EndpointImage,
    ImageState,
    Observed,
    Prepare,
    Remove,
    Step,
    Stop,
    Store,
    Stored,
    Supervise,
    Wait,
    WriteKeys,
    next_step,
)
from edgewright.contracts.endpoints import EndpointState
from edgewright.serving.supervision.service import Generation, ServiceState, ServiceStatus

NOW = datetime(2026, 12, 1, tzinfo=UTC)
TRANSITIONING, HEALTHY, UNHEALTHY, FAILED = (
    EndpointState.TRANSITIONING,
    EndpointState.HEALTHY,
    EndpointState.UNHEALTHY,
    EndpointState.FAILED,
)


def stored(state: EndpointState = TRANSITIONING, *, deleted: bool = False, age_s: float = 1.0, reason: str = "") -> Stored:
    return Stored(
        generation=2,
        state=state,
        reason=reason,
        answering=2 if state is HEALTHY else None,
        is_deleted=deleted,
        deployed_at=NOW - timedelta(seconds=age_s),
        start_timeout=timedelta(seconds=10),
    )


def observed(
    state: ServiceState | None = None, *, supervised: bool = True, prepared: int | None = 2, keys: bool = True, **status: Any
) -> Observed:
    return Observed(
        image=status.pop("image", EndpointImage()),
        is_supervised=supervised,
        prepared=prepared,
        has_current_keys=keys,
        status=None if state is None else status_of(state, **status),
    )


def image(state: ImageState, reason: str = "") -> EndpointImage:
    return EndpointImage(state=state, name="churn-endpoint:2", reason=reason)


def status_of(state: ServiceState, *, reason: str = "", answering: int | None = None, generation: int = 2) -> ServiceStatus:
    serving = None if answering is None else Generation(number=answering, command=(), directory="")
    return ServiceStatus(
        pid=1, nonce="", generation=generation, state=state, reason=reason, ready=int(answering is not None), answering=serving
    )


def store(state: EndpointState, reason: str = "", answering: int | None = None) -> Store:
    return Store(state=state, reason=reason, answering=answering)


LATE = "it must be ready within 70 s, but it is not"


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        pytest.param(stored(), observed(supervised=False, prepared=None), Prepare(), id="new"),
        pytest.param(stored(), observed(ServiceState.RUNNING, prepared=1), Prepare(), id="updated"),
        pytest.param(stored(), observed(supervised=False), Supervise(), id="prepared"),
        pytest.param(stored(HEALTHY), observed(supervised=False), Supervise(), id="after a restart of the machine"),
        pytest.param(stored(HEALTHY), observed(keys=False), WriteKeys(), id="keys changed while the cloud was down"),
        pytest.param(stored(), observed(), Wait(), id="its supervisor has just started"),
        pytest.param(stored(), observed(ServiceState.STARTING), Wait(), id="starting"),
        pytest.param(
            stored(),
            observed(ServiceState.STARTING, reason="no weights"),
            store(TRANSITIONING, "no weights"),
            id="a failed attempt is shown",
        ),
        pytest.param(stored(), observed(ServiceState.RUNNING, answering=2), store(HEALTHY, answering=2), id="ready"),
        pytest.param(stored(HEALTHY), observed(ServiceState.RUNNING, answering=2), Wait(), id="stays ready"),
        pytest.param(
            stored(),
            observed(ServiceState.RUNNING, answering=1, generation=1),
            store(TRANSITIONING, "", 1),
            id="the report of the earlier deployment does not count",
        ),
        pytest.param(
            stored(HEALTHY), observed(ServiceState.INTERRUPTED), store(UNHEALTHY, "it is started again"), id="its process ended"
        ),
        pytest.param(
            stored(HEALTHY), observed(ServiceState.STARTING), store(UNHEALTHY, "it is started again"), id="starts after a reboot"
        ),
        pytest.param(stored(), observed(ServiceState.FAILED, reason="no weights"), store(FAILED, "no weights"), id="failed"),
        pytest.param(
            stored(),
            observed(ServiceState.FAILED, reason="no weights", answering=1),
            store(FAILED, "no weights; deployment 1 still answers", 1),
            id="a failed update",
        ),
        pytest.param(
            stored(age_s=71),
            observed(ServiceState.STARTING, reason="no weights"),
            store(FAILED, f"{LATE}; no weights"),
            id="never ready",
        ),
        pytest.param(
            stored(age_s=71), observed(), store(FAILED, f"{LATE}; its supervisor does not answer"), id="a supervisor that hangs"
        ),
        pytest.param(stored(), observed(prepared=1, image=image(ImageState.ABSENT)), BuildImage(), id="needs an image"),
        pytest.param(
            stored(),
            observed(ServiceState.RUNNING, prepared=1, image=image(ImageState.BUILDING)),
            store(TRANSITIONING, "image churn-endpoint:2 is being built"),
            id="its image is built",
        ),
        pytest.param(
            stored(reason="image churn-endpoint:2 is being built", age_s=7200),
            observed(supervised=False, prepared=1, image=image(ImageState.BUILDING)),
            Supervise(),
            id="the earlier deployment continues during a long build",
        ),
        pytest.param(
            stored(reason="image churn-endpoint:2 is being built", age_s=7200),
            observed(supervised=False, prepared=None, image=image(ImageState.BUILDING)),
            Wait(),
            id="the build of the first image takes long",
        ),
        pytest.param(
            stored(),
            observed(prepared=1, image=image(ImageState.FAILED, "no package x")),
            store(
                FAILED, "image churn-endpoint:2 was not built: no package x; its log: 'edgewright images log churn-endpoint:2'"
            ),
            id="its image was not built",
        ),
        pytest.param(stored(), observed(prepared=1, image=image(ImageState.BUILT)), Prepare(), id="its image is ready"),
        pytest.param(stored(FAILED), observed(supervised=False, prepared=None), Wait(), id="its files could not be prepared"),
        pytest.param(stored(FAILED), observed(supervised=False, prepared=1), Supervise(), id="the earlier deployment continues"),
        pytest.param(stored(deleted=True), observed(ServiceState.RUNNING, answering=2), Stop(), id="deleted"),
        pytest.param(stored(deleted=True), observed(supervised=False), Remove(), id="deleted and stopped"),
    ],
)
def test_the_next_step(row: Stored, seen: Observed, expected: Step) -> None:
    assert next_step(row, seen, NOW) == expected
