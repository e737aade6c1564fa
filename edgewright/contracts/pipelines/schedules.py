"""Schedules: when a published pipeline runs without a request, by the clock or because a folder has new data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts.names import check_name
from edgewright.contracts.pipelines.definition import Value
from edgewright.errors import BadInputError

MIN_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRequest:
    """Request to create or replace a schedule: PUT /v1/schedules/{schedule}."""

    pipeline: str
    """NAME, which runs the newest enabled version, or NAME:VERSION."""
    cron: str = ""
    """Five fields, as in `0 6 * * 1-5`: minute, hour, day, month, day of the week (crontab(5))."""
    time_zone: str = "UTC"
    """Name of the IANA data base, as in Europe/Paris."""
    folder: str = ""
    """Folder of the cloud's machine; new or changed files in it start a job when they no longer change."""
    poll_s: float = 60.0
    """Time between two looks at the folder."""
    experiment: str = "default"
    parameters: dict[str, Value] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.experiment, "experiment")
        if bool(self.cron) == bool(self.folder):
            raise BadInputError("a schedule must have a cron expression or a folder, and not both")
        if self.folder and not self.folder.startswith("/"):
            raise BadInputError(f"the folder of a schedule must be an absolute path on the cloud's machine, not {self.folder!r}")
        if not MIN_POLL_S <= self.poll_s <= 86400:
            raise BadInputError(f"poll_s must be {MIN_POLL_S:g} s to a day, not {self.poll_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """One schedule."""

    schedule: str
    request: ScheduleRequest
    is_enabled: bool
    next_at: datetime | None
    """When it starts a job, or looks at its folder; None while it is disabled."""
    last_job: int | None
    reason: str = ""
    """Why the last time started no job."""
    created_at: datetime
