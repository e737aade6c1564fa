"""The rules of a rollout: the order of the devices, the next step, and the conditions for a halt.

    plan_waves(request, candidates)     once, at the start: divide the devices into waves
    next_step(rollout, outcomes, now)   repeatedly: Offer | Wait | OpenWave | Halt | Complete

A wave's gate holds when enough of its devices run the version (`success_threshold`). Every device of an open wave is one of:

    running       it runs the version
    failed        it refused the version, failed or rolled back, or it made no progress within the device timeout
    blocked       the package failed on its hardware before, so it is not offered the version; it counts as failed
    in progress   it is installing the version, or is about to be offered it
    offline       it does not delay the wave, is counted separately, and installs the version when it is back online

The share is taken over the devices that are not offline, and at least one device must run the version: a wave of offline
devices proves nothing. When failures put a gate out of reach, the rollout is halted permanently and no further device is
changed. A device that goes offline during the switch also fails after the timeout, because a broken device looks the same.

Everything here is a pure function of values. The engine (`cloud/rollouts/engine.py`) reads the values from its tables and may
be killed between any two steps, because the same tables always give the same next step.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState
from edgewright.contracts.names import check_name
from edgewright.errors import BadInputError

MAX_TIME_S = 10 * 366 * 86400
"""Maximum soak, trial and device timeout; an instant this far in the future can still be computed."""
_MID_SWITCH = frozenset({DeploymentState.SWITCHING, DeploymentState.TRIAL, DeploymentState.ROLLING_BACK})
_ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a rollout will include."""

    device: str
    online: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The plan and state of a rollout."""

    state: RolloutState
    waves: tuple[tuple[str, ...], ...]
    wave: int
    """Index of the open wave, from 0."""
    success_threshold: float
    soak_s: float
    device_timeout_s: float
    rollback_on_halt: bool

    @property
    def is_active(self) -> bool:
        """Return True unless the rollout has ended."""
        return self.state in _ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The progress of one device, timed by the cloud's clock, because a device's clock may be wrong."""

    state: DeploymentState | None
    """None until the device is offered the version."""
    since: datetime
    """Time at which the cloud first saw this state."""
    online: bool
    online_since: datetime
    """Time of the last change of `online`."""
    reason: str = ""
    blocked_reason: str = ""
    """Earlier failure of the package on this hardware, which blocks the offer; empty if there was none."""
    revoked: bool = False
    can_be_restored: bool = True
    """True if the device ran a version before, which can be restored."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Make the version the desired state of these devices."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class OpenWave:
    """Open this wave: the gate of the previous one has held for the soak time."""

    wave: int


@dataclass(frozen=True, slots=True)
class Halt:
    """End the rollout after failures, and restore the previous version on `devices_to_restore`."""

    reason: str
    devices_to_restore: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """End the rollout successfully: every gate has held and no device is in progress."""

    reason: str


Step = Offer | Wait | OpenWave | Halt | Complete
Outcomes = Mapping[str, Outcome]


class DeviceStatus(enum.StrEnum):
    """The status of a device in an open wave."""

    RUNNING = "running"
    FAILED = "failed"
    BLOCKED = "blocked"
    IN_PROGRESS = "in progress"
    OFFLINE = "offline"


_FAILURES = (DeviceStatus.FAILED, DeviceStatus.BLOCKED)
_NOT_RUNNING = (DeviceStatus.IN_PROGRESS, *_FAILURES, DeviceStatus.OFFLINE)


def plan_waves(request: RolloutRequest, candidates: Sequence[Candidate], version: int) -> tuple[tuple[str, ...], ...]:
    """Divide the devices into waves.

    Named devices keep the order of the request, so an operator chooses the canary by naming it first. Otherwise devices that
    are online come first, because an offline canary proves nothing. They are sorted by a hash of version and device name: the
    order is stable for one version and differs for the next, so different devices take the risk.

    Raises:
        BadInputError: the request is invalid, no device matches, or the waves do not end at all devices.
    """
    check_request(request)
    if not candidates:
        raise BadInputError("a rollout needs at least one device, but none matches; see 'edgewright devices list'")
    ordered = [each.device for each in candidates]
    if not request.devices:
        ordered = [each.device for each in sorted(candidates, key=lambda each: _sort_key(each, request.model, version))]
    ends = [min(_cumulative_count(wave, len(ordered)), len(ordered)) for wave in request.waves]
    if ends != sorted(ends):
        raise BadInputError(f"waves are cumulative and must not decrease, but {','.join(request.waves)} does")
    if ends[-1] != len(ordered):
        raise BadInputError(
            f"the last wave must reach all {len(ordered)} devices, but {request.waves[-1]} ends at {ends[-1]}; "
            "use 100%, or select fewer devices"
        )
    bounds = [0, *ends]
    waves = [tuple(ordered[start:end]) for start, end in itertools.pairwise(bounds)]
    return tuple(wave for wave in waves if wave)


def next_step(rollout: Rollout, outcomes: Outcomes, now: datetime) -> Step:
    """Return the next step; the same values give the same step."""
    if not rollout.is_active:
        return Wait(f"the rollout is {rollout.state}")
    opened = rollout.waves[: rollout.wave + 1]
    for number, wave in enumerate(opened):
        if _is_out_of_reach(rollout, tally(rollout, wave, outcomes, now)):
            restored = devices_to_restore(rollout, outcomes, rollback=rollout.rollback_on_halt)
            return Halt(_halt_reason(rollout, number, outcomes, now), restored)
    if rollout.state is RolloutState.PAUSED:
        return Wait("paused: no further device is offered the version until the rollout is resumed")
    if offered := [device for wave in opened for device in wave if _can_be_offered(outcomes[device])]:
        return Offer(tuple(offered))
    if not _gate_holds(rollout, tally(rollout, opened[-1], outcomes, now)):
        return Wait(_describe(rollout, outcomes, now))
    if (soak_ends_at := _soak_ends_at(rollout, outcomes, now)) > now:
        return Wait(f"wave {rollout.wave + 1} of {len(rollout.waves)} passed; soak ends at {soak_ends_at:%H:%M:%S} UTC")
    if rollout.wave + 1 < len(rollout.waves):
        return OpenWave(rollout.wave + 1)
    counts = tally(rollout, [device for wave in opened for device in wave], outcomes, now)
    if counts[DeviceStatus.IN_PROGRESS]:
        return Wait(f"all waves passed; {counts[DeviceStatus.IN_PROGRESS]} in progress")
    return Complete(_summary(counts))


def devices_to_restore(rollout: Rollout, outcomes: Outcomes, *, rollback: bool) -> tuple[str, ...]:
    """Return the devices whose previous version is restored when a rollout is halted or aborted.

    Open offers are always withdrawn: a device that is offline must not install the version later. Devices that run the version
    are included if `rollback`. Devices that refused it or rolled back run their previous version already.
    """
    restored = []
    for device in (device for wave in rollout.waves for device in wave):
        outcome = outcomes[device]
        if outcome.state is None or outcome.state.is_failure or outcome.state is DeploymentState.SUPERSEDED:
            continue
        keeps_version = outcome.state is DeploymentState.RUNNING and not rollback
        if outcome.can_be_restored and not keeps_version and not outcome.revoked:
            restored.append(device)
    return tuple(restored)


def device_status(rollout: Rollout, outcome: Outcome, now: datetime) -> DeviceStatus:
    """Return the status of a device in an open wave."""
    if outcome.state is DeploymentState.RUNNING:
        return DeviceStatus.RUNNING
    if outcome.state is None and outcome.blocked_reason:
        return DeviceStatus.BLOCKED
    if outcome.state is not None and (outcome.state.is_failure or is_overdue(rollout, outcome, now)):
        return DeviceStatus.FAILED
    absent = outcome.revoked or not outcome.online or outcome.state is DeploymentState.SUPERSEDED
    return DeviceStatus.OFFLINE if absent else DeviceStatus.IN_PROGRESS


def tally(rollout: Rollout, devices: Sequence[str], outcomes: Outcomes, now: datetime) -> Counter[DeviceStatus]:
    """Count the devices of each status."""
    return Counter(device_status(rollout, outcomes[device], now) for device in devices)


def is_overdue(rollout: Rollout, outcome: Outcome, now: datetime) -> bool:
    """Return True if a device has made no progress for the device timeout.

    Time spent offline does not count, unless the device went offline during the switch.
    """
    if outcome.state is None or outcome.state.is_final:
        return False
    mid_switch = outcome.state in _MID_SWITCH
    idle_since = outcome.since if mid_switch else max(outcome.since, outcome.online_since)
    return (outcome.online or mid_switch) and now - idle_since >= timedelta(seconds=rollout.device_timeout_s)


def check_request(request: RolloutRequest) -> None:
    """Raise `BadInputError` for a request that is invalid for every fleet."""
    if request.workload:
        check_name(request.workload, "workload")
    if request.devices and request.labels:
        raise BadInputError("a rollout must select devices by name or by label, not both: leave one out")
    if len(set(request.devices)) != len(request.devices):
        raise BadInputError("a rollout must name each device once: remove the duplicate")
    if not request.waves:
        raise BadInputError("a rollout needs at least one wave, such as 100%")
    if not 0 < request.success_threshold <= 1:
        raise BadInputError(f"success_threshold must be greater than 0 and at most 1 (100%), not {request.success_threshold}")
    if request.soak_s < 0 or request.trial_s < 0:
        raise BadInputError(f"soak_s and trial_s must be 0 or more, not {request.soak_s:g} and {request.trial_s:g}")
    longest_s = max(request.soak_s, request.trial_s, request.device_timeout_s)
    if longest_s > MAX_TIME_S:
        raise BadInputError(f"the times of a rollout must be at most {MAX_TIME_S} s (ten years), not {longest_s:g} s")
    if request.device_timeout_s <= request.trial_s:
        raise BadInputError(
            f"the device timeout ({request.device_timeout_s:g} s) must be longer than the trial ({request.trial_s:g} s)"
        )


def _sort_key(candidate: Candidate, model: str, version: int) -> tuple[bool, bytes]:
    digest = hashlib.sha256(f"{model}:{version}/{candidate.device}".encode()).digest()
    return not candidate.online, digest


def _cumulative_count(wave: str, count: int) -> int:
    """Return the number of devices, out of `count`, up to the end of a wave such as `3`, `25%` or `0.5%`."""
    if re.fullmatch(r"[1-9][0-9]{0,8}", wave):
        return int(wave)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", wave) and 0 < Fraction(wave[:-1]) <= 100:
        return math.ceil(Fraction(wave[:-1]) * count / 100)
    raise BadInputError(f"a wave must be a number or a percentage of devices, such as 1 or 25%, not {wave!r}")


def _can_be_offered(outcome: Outcome) -> bool:
    return outcome.state is None and not outcome.blocked_reason and not outcome.revoked


def _required(rollout: Rollout, counts: Counter[DeviceStatus]) -> int:
    present = counts.total() - counts[DeviceStatus.OFFLINE]
    return max(1, math.ceil(rollout.success_threshold * present - 1e-9))  # 0.07 * 100 is a little over 7


def _gate_holds(rollout: Rollout, counts: Counter[DeviceStatus]) -> bool:
    return counts[DeviceStatus.RUNNING] >= _required(rollout, counts)


def _is_out_of_reach(rollout: Rollout, counts: Counter[DeviceStatus]) -> bool:
    if not any(counts[status] for status in _FAILURES):
        return False
    return counts[DeviceStatus.RUNNING] + counts[DeviceStatus.IN_PROGRESS] < _required(rollout, counts)


def _soak_ends_at(rollout: Rollout, outcomes: Outcomes, now: datetime) -> datetime:
    """Return the end of the open wave's soak, which starts when the last device that its gate requires is running."""
    wave = rollout.waves[rollout.wave]
    running_since = sorted(outcomes[device].since for device in wave if outcomes[device].state is DeploymentState.RUNNING)
    reached_at = running_since[_required(rollout, tally(rollout, wave, outcomes, now)) - 1]
    return reached_at + timedelta(seconds=rollout.soak_s)


def _describe(rollout: Rollout, outcomes: Outcomes, now: datetime) -> str:
    wave = rollout.waves[rollout.wave]
    counts = tally(rollout, wave, outcomes, now)
    parts = [f"{counts[DeviceStatus.RUNNING]} of {len(wave)} running"]
    parts += [f"{counts[status]} {status}" for status in _NOT_RUNNING if counts[status]]
    waiting = "; waiting for a device to come online" if counts[DeviceStatus.OFFLINE] == len(wave) else ""
    return f"wave {rollout.wave + 1} of {len(rollout.waves)}: {', '.join(parts)}{waiting}"


def _halt_reason(rollout: Rollout, number: int, outcomes: Outcomes, now: datetime) -> str:
    wave = rollout.waves[number]
    counts = tally(rollout, wave, outcomes, now)
    totals = ", ".join(f"{counts[status]} of {len(wave)} {status}" for status in _FAILURES if counts[status])
    failures = [device for device in wave if device_status(rollout, outcomes[device], now) in _FAILURES]
    details = "; ".join(f"{device} {_failure(rollout, outcomes[device])}" for device in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return (
        f"wave {number + 1} of {len(rollout.waves)} can no longer reach {rollout.success_threshold:.0%} running: "
        f"{totals}: {details}{more}"
    )


def _failure(rollout: Rollout, outcome: Outcome) -> str:
    if outcome.state is None:
        return f"blocked: {outcome.blocked_reason}"
    state = outcome.state.value.replace("_", " ")
    if outcome.state.is_failure:
        return f"{state}: {outcome.reason}"
    return f"made no progress for {rollout.device_timeout_s:g} s, last state {state}"


def _summary(counts: Counter[DeviceStatus]) -> str:
    line = f"{counts[DeviceStatus.RUNNING]} of {counts.total()} devices running"
    failures = ", ".join(f"{counts[status]} {status}" for status in _FAILURES if counts[status])
    if failures:
        line += f"; {failures} (allowed by the success threshold)"
    if counts[DeviceStatus.OFFLINE]:
        line += f"; {counts[DeviceStatus.OFFLINE]} offline, will install it when back online"
    return line
