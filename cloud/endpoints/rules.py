"""Rules of an endpoint: compare what is stored with what is observed, and return one step. Pure functions.

deleted            stop the supervisor, then remove the folder and the row
a new generation   build its image if it needs one, then prepare its files, once; an error there is final for this generation
no supervisor      start one: after the first preparation, after a restart of the machine, after a crash
else               store the state that the supervisor reports
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgewright.contracts.endpoints import EndpointState
from edgewright.serving.supervision.service import ServiceState, ServiceStatus

REPORT_MARGIN = timedelta(seconds=60)
"""Time beyond the start timeout in which the supervisor must report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The stored facts about an endpoint."""

    generation: int
    state: EndpointState
    reason: str
    answering: int | None
    is_deleted: bool
    deployed_at: datetime
    start_timeout: timedelta


class ImageState(enum.StrEnum):
    """State of the image that the cloud builds for a deployment."""

    NOT_NEEDED = "not needed"
    ABSENT = "absent"
    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointImage:
    """The image of a deployment."""

    state: ImageState = ImageState.NOT_NEEDED
    name: str = ""
    """NAME:VERSION of an image that was queued."""
    reason: str = ""
    """Cause of a failed build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The observed facts about an endpoint."""

    image: EndpointImage = EndpointImage()
    is_supervised: bool
    prepared: int | None
    """Generation in the supervisor's desired service; None before the first one."""
    has_current_keys: bool
    status: ServiceStatus | None


@dataclass(frozen=True, slots=True)
class WriteKeys:
    """Write the stored keys to the file of the server."""


@dataclass(frozen=True, slots=True)
class BuildImage:
    """Queue the build of the generation's image; if there is an equal one, prepare the files with that."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Write the files of the generation, then the desired service."""


@dataclass(frozen=True, slots=True)
class Supervise:
    """Start a supervisor."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the supervisor."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the folder and the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Store a new state."""

    state: EndpointState
    reason: str
    answering: int | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do at the moment."""


Step = BuildImage | Prepare | WriteKeys | Supervise | Stop | Remove | Store | Wait


def next_step(stored: Stored, observed: Observed, now: datetime) -> Step:
    """Return the next step of an endpoint at `now`."""
    if stored.is_deleted:
        return Stop() if observed.is_supervised else Remove()
    is_prepared = observed.prepared == stored.generation
    if not is_prepared and stored.state is not EndpointState.FAILED:
        preparation = _preparation(stored, observed)
        if preparation is not None:
            return preparation
    if observed.prepared is not None and not observed.has_current_keys:
        return WriteKeys()
    if observed.prepared is not None and not observed.is_supervised:
        return Supervise()
    if not is_prepared:
        return Wait()
    report = _report(stored, observed.status, now)
    is_stored = (report.state, report.reason, report.answering) == (stored.state, stored.reason, stored.answering)
    return Wait() if is_stored else report


def _preparation(stored: Stored, observed: Observed) -> Step | None:
    """Return the next step of a generation that is not prepared; None while its image is built, as its state says."""
    image = observed.image
    if image.state is ImageState.ABSENT:
        return BuildImage()
    if image.state is ImageState.FAILED:
        reason = f"image {image.name} was not built: {image.reason}; its log: 'edgewright images log {image.name}'"
        return Store(state=EndpointState.FAILED, reason=reason, answering=stored.answering)
    if image.state is ImageState.BUILDING:
        reason = f"image {image.name} is being built"
        return None if stored.reason == reason else Store(state=stored.state, reason=reason, answering=stored.answering)
    return Prepare()


def _report(stored: Stored, status: ServiceStatus | None, now: datetime) -> Store:
    answering = None if status is None or status.answering is None or status.ready == 0 else status.answering.number
    if status is None or status.generation != stored.generation:
        return _waiting(stored, "", answering, now)
    if status.state is ServiceState.RUNNING:
        return Store(state=EndpointState.HEALTHY, reason="", answering=answering)
    if status.state is ServiceState.FAILED:
        also = "" if answering in (None, stored.generation) else f"; deployment {answering} still answers"
        return Store(state=EndpointState.FAILED, reason=f"{status.reason}{also}", answering=answering)
    if status.state is ServiceState.INTERRUPTED and stored.state in (EndpointState.HEALTHY, EndpointState.UNHEALTHY):
        return Store(state=EndpointState.UNHEALTHY, reason=status.reason or "it is started again", answering=answering)
    return _waiting(stored, status.reason, answering, now)


def _waiting(stored: Stored, reason: str, answering: int | None, now: datetime) -> Store:
    """Return the state of a deployment that is not ready: Transitioning up to its deadline, then Failed."""
    limit = stored.start_timeout + REPORT_MARGIN
    if stored.state is EndpointState.FAILED or now > stored.deployed_at + limit:
        text = f"it must be ready within {limit.total_seconds():g} s, but it is not"
        late = f"{text}; {reason or 'its supervisor does not answer'}"
        kept = stored.reason if stored.state is EndpointState.FAILED else late
        return Store(state=EndpointState.FAILED, reason=kept, answering=answering)
    if stored.state is EndpointState.TRANSITIONING:
        return Store(state=EndpointState.TRANSITIONING, reason=reason, answering=answering)
    return Store(state=EndpointState.UNHEALTHY, reason=reason or "it is started again", answering=answering)
