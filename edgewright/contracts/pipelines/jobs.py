"""Jobs: runs of a pipeline, with the state of each step."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts.names import check_name
from edgewright.contracts.pipelines.definition import Pipeline, Value
from edgewright.errors import BadInputError

MAX_DESCRIPTION = 1000


class JobState(enum.StrEnum):
    """State of a job, in the words of Azure ML; the rules are in `cloud/pipelines/rules.py`."""

    RUNNING = "Running"
    CANCELING = "CancelRequested"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def is_final(self) -> bool:
        """True if the job has ended."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)


class StepState(enum.StrEnum):
    """State of one step of a job."""

    WAITING = "NotStarted"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"  # also a step that did not start because another one failed

    @property
    def is_final(self) -> bool:
        """True if the step has ended, or will not start."""
        return self not in (StepState.WAITING, StepState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of a job."""

    name: str
    state: StepState = StepState.WAITING
    reason: str = ""
    """Why it failed or did not start."""
    attempt: int = 0
    """Number of times that it was started."""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job."""

    job: int
    pipeline: str
    """NAME:VERSION of a published pipeline; empty if it was not published."""
    experiment: str
    parameters: dict[str, Value]
    state: JobState
    steps: tuple[StepRecord, ...]
    """In the order of the definition."""
    reason: str = ""
    schedule: str = ""
    """Name of the schedule that started it."""
    created_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """Request to run a pipeline: POST /v1/jobs. It is a published one, or comes with the request."""

    pipeline: str = ""
    """NAME, or NAME:VERSION."""
    definition: Pipeline | None = None
    experiment: str = "default"
    parameters: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.pipeline) == (self.definition is not None):
            raise BadInputError("a job must name a published pipeline or bring a definition, and not both")
        check_name(self.experiment, "experiment")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """Request to publish the next version of a pipeline: POST /v1/pipelines/{pipeline}."""

    definition: Pipeline
    description: str = ""

    def __post_init__(self) -> None:
        if len(self.description) > MAX_DESCRIPTION:
            raise BadInputError(f"a description must have at most {MAX_DESCRIPTION} characters, not {len(self.description)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRecord:
    """One version of a published pipeline."""

    pipeline: str
    version: int
    description: str
    definition: Pipeline
    is_enabled: bool
    """False: it starts no job."""
    endpoint: str
    """Address of the request that starts a job."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableRequest:
    """Request to enable or disable a version of a pipeline, or a schedule."""

    is_enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A file of a step of a job."""

    step: str
    path: str
    """`outputs/…` and `logs/…` of the working directory, `NAME/…` of the output NAME, `metrics.jsonl` of its run."""
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """A piece of the output of a step's script."""

    attempt: int
    """The attempt that the log belongs to; another one has a log of its own."""
    text: str
    next: int
    """Offset in bytes of the next piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """Body of Azure ML's request to a published pipeline; other fields of it have no effect here.

    Source: https://learn.microsoft.com/azure/machine-learning/v1/how-to-deploy-pipelines
    """

    ExperimentName: str = "default"
    ParameterAssignments: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Answer of Azure ML to it: the id of the job."""

    Id: str
