"""The rules of a rollout: who is offered a version, when the next ones are, and when it stops. Read from top to bottom.

    plan_waves(request, candidates)     once, at the start: who is in which wave
    next_step(rollout, outcomes, now)   again and again: Offer | Wait | OpenWave | Halt | Complete

A wave's gate holds when enough of its devices run the version (`success_threshold`). Every device of an open wave is one of:

    running     it runs the version
    bad         it refused the version, failed or rolled back, or it has been silent past the deadline
    under way   it is working on it, or is about to be offered it
    away        it is offline: it holds no wave, it is counted apart, and it takes the version when it returns

The share is taken over the devices that are not away, and one device at least must run the version: nothing is proven by a
wave of absent devices. Once the bad ones leave a gate out of reach the rollout is halted, for good, and nobody further is
touched. Devices that vanish in the middle of the switch count as bad too, for that is what a broken device looks like.

Everything here is a pure function of values: the engine (`cloud/rollouts/engine.py`) reads them from its tables and may be
killed between any two steps, because the same tables always give the same next step.
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
from edgewright.errors import BadInputError

_MID_SWITCH = frozenset({DeploymentState.SWITCHING, DeploymentState.TRIAL, DeploymentState.ROLLING_BACK})
_ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a rollout is about to include."""

    device: str
    online: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What the rules need to know of a rollout."""

    state: RolloutState
    waves: tuple[tuple[str, ...], ...]
    wave: int
    """The wave that is open now, from 0."""
    success_threshold: float
    soak_s: float
    device_timeout_s: float
    rollback_on_halt: bool

    @property
    def is_active(self) -> bool:
        """Tell whether anything can still happen."""
        return self.state in _ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How far one device has got, by the cloud's clock: a device's own may be wrong."""

    state: DeploymentState | None
    """None until it was offered the version."""
    since: datetime
    """When it was first seen in this state."""
    online: bool
    online_since: datetime
    """When `online` last changed."""
    reason: str = ""
    barred: str = ""
    """Why it must not be offered the version (it failed on this device's hardware before); empty when it may."""
    revoked: bool = False
    can_return: bool = True
    """Whether it ran anything before, to which it can be returned."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Make the version desired on these devices."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class OpenWave:
    """The gate of the open wave has held long enough: open this one."""

    wave: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop for good, and make what they ran before desired again on `give_back`."""

    reason: str
    give_back: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """Every gate has held and nobody is under way."""

    reason: str


Step = Offer | Wait | OpenWave | Halt | Complete
Outcomes = Mapping[str, Outcome]


class Standing(enum.StrEnum):
    """What a device of an open wave counts as."""

    RUNNING = "running"
    BAD = "bad"
    UNDER_WAY = "under way"
    AWAY = "away"


def plan_waves(request: RolloutRequest, candidates: Sequence[Candidate], version: int) -> tuple[tuple[str, ...], ...]:
    """Divide the devices into waves; raise `BadInputError` when the request cannot be carried out.

    Devices that were named keep their order, so an operator chooses the canary by naming it first. Otherwise those that are
    online come first (an absent canary proves nothing), in the order of a hash of version and name: the same each time for
    one version, another for the next, so that it is not always the same machine that takes the risk.
    """
    check_request(request)
    if not candidates:
        raise BadInputError("a rollout needs at least one device, but none matches; see 'edgewright devices list'")
    ordered = [each.device for each in candidates]
    if not request.devices:
        ordered = [each.device for each in sorted(candidates, key=lambda each: _place(each, request.model, version))]
    ends = [min(_devices_by(wave, len(ordered)), len(ordered)) for wave in request.waves]
    if ends != sorted(ends):
        raise BadInputError(f"waves are counted from the start and must not fall, but {','.join(request.waves)} does")
    if ends[-1] != len(ordered):
        raise BadInputError(
            f"the last wave must reach all {len(ordered)} devices, but {request.waves[-1]} ends at {ends[-1]}; "
            "let it be 100%, or choose fewer devices"
        )
    bounds = [0, *ends]
    waves = [tuple(ordered[start:end]) for start, end in itertools.pairwise(bounds)]
    return tuple(wave for wave in waves if wave)


def next_step(rollout: Rollout, outcomes: Outcomes, now: datetime) -> Step:
    """Decide what happens next; without news the answer stays the same."""
    if not rollout.is_active:
        return Wait(f"the rollout is {rollout.state}")
    opened = rollout.waves[: rollout.wave + 1]
    for number, wave in enumerate(opened):
        if _is_out_of_reach(rollout, tally(rollout, wave, outcomes, now)):
            return Halt(
                _why_halted(rollout, number, outcomes, now), give_back(rollout, outcomes, reverse=rollout.rollback_on_halt)
            )
    if rollout.state is RolloutState.PAUSED:
        return Wait("paused: nobody further is offered the version until the rollout is resumed")
    if offered_now := [device for wave in opened for device in wave if _may_be_offered(outcomes[device])]:
        return Offer(tuple(offered_now))
    if not _gate_holds(rollout, tally(rollout, opened[-1], outcomes, now)):
        return Wait(_describe(rollout, outcomes, now))
    if (watched_until := _watched_until(rollout, outcomes, now)) > now:
        return Wait(f"wave {rollout.wave + 1} of {len(rollout.waves)} passed; watched until {watched_until:%H:%M:%S} UTC")
    if rollout.wave + 1 < len(rollout.waves):
        return OpenWave(rollout.wave + 1)
    everyone = tally(rollout, [device for wave in opened for device in wave], outcomes, now)
    if everyone[Standing.UNDER_WAY]:
        return Wait(f"every gate has held; {everyone[Standing.UNDER_WAY]} under way")
    return Complete(_closing_line(everyone))


def give_back(rollout: Rollout, outcomes: Outcomes, *, reverse: bool) -> tuple[str, ...]:
    """Return the devices from which the version is taken back when a rollout is halted or aborted.

    An offer that was not carried out is withdrawn in any case: a device that is away must not take the version later.
    Those that run it return to what they ran before if `reverse`. Those that refused it or rolled back run the old one already.
    """
    taken = []
    for device in (device for wave in rollout.waves for device in wave):
        outcome = outcomes[device]
        if outcome.state is None or outcome.state.is_bad or outcome.state is DeploymentState.SUPERSEDED:
            continue
        keeps = outcome.state is DeploymentState.RUNNING and not reverse
        if outcome.can_return and not keeps and not outcome.revoked:
            taken.append(device)
    return tuple(taken)


def standing(rollout: Rollout, outcome: Outcome, now: datetime) -> Standing:
    """Say what a device of an open wave counts as."""
    if outcome.state is DeploymentState.RUNNING:
        return Standing.RUNNING
    if _is_bad(rollout, outcome, now):
        return Standing.BAD
    gone = outcome.revoked or not outcome.online or outcome.state is DeploymentState.SUPERSEDED
    return Standing.AWAY if gone else Standing.UNDER_WAY


def tally(rollout: Rollout, devices: Sequence[str], outcomes: Outcomes, now: datetime) -> Counter[Standing]:
    """Count the standings of some devices."""
    return Counter(standing(rollout, outcomes[device], now) for device in devices)


def is_overdue(rollout: Rollout, outcome: Outcome, now: datetime) -> bool:
    """Tell whether a device has made no step for the deadline.

    The time that it spends offline does not count, unless it went away in the middle of the switch.
    """
    if outcome.state is None or outcome.state.is_final:
        return False
    mid_switch = outcome.state in _MID_SWITCH
    waited_since = outcome.since if mid_switch else max(outcome.since, outcome.online_since)
    return (outcome.online or mid_switch) and now - waited_since >= timedelta(seconds=rollout.device_timeout_s)


def check_request(request: RolloutRequest) -> None:
    """Raise `BadInputError` for a request that makes no sense for any fleet."""
    if request.devices and request.labels:
        raise BadInputError("a rollout is for named devices or for those with certain labels, not both; leave one out")
    if len(set(request.devices)) != len(request.devices):
        raise BadInputError("a rollout must name each device once; remove the one that is there twice")
    if not request.waves:
        raise BadInputError("a rollout needs at least one wave, as in 100%")
    if not 0 < request.success_threshold <= 1:
        raise BadInputError(f"success_threshold must be over 0 and at most 1 (100%), not {request.success_threshold}")
    if request.soak_s < 0 or request.trial_s < 0:
        raise BadInputError(f"soak_s and trial_s must be 0 or more, not {request.soak_s:g} and {request.trial_s:g}")
    if request.device_timeout_s <= request.trial_s:
        raise BadInputError(
            f"the device timeout must be longer than the trial: {request.device_timeout_s:g} s is not over {request.trial_s:g} s"
        )


def _place(candidate: Candidate, model: str, version: int) -> tuple[bool, bytes]:
    shuffled = hashlib.sha256(f"{model}:{version}/{candidate.device}".encode()).digest()
    return not candidate.online, shuffled


def _devices_by(wave: str, count: int) -> int:
    """Return how many of `count` devices have been offered the version by the end of a wave: `3`, `25%`, `0.5%`."""
    if re.fullmatch(r"[1-9][0-9]{0,8}", wave):
        return int(wave)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", wave) and 0 < Fraction(wave[:-1]) <= 100:
        return math.ceil(Fraction(wave[:-1]) * count / 100)
    raise BadInputError(f"a wave must be a count of devices or a share of them, as in 1 or 25%, not {wave!r}")


def _may_be_offered(outcome: Outcome) -> bool:
    return outcome.state is None and not outcome.barred and not outcome.revoked


def _is_bad(rollout: Rollout, outcome: Outcome, now: datetime) -> bool:
    if outcome.state is None:
        return bool(outcome.barred)
    return outcome.state.is_bad or is_overdue(rollout, outcome, now)


def _needed(rollout: Rollout, counted: Counter[Standing]) -> int:
    present = counted.total() - counted[Standing.AWAY]
    return max(1, math.ceil(rollout.success_threshold * present - 1e-9))  # 0.07 * 100 is a little over 7


def _gate_holds(rollout: Rollout, counted: Counter[Standing]) -> bool:
    return counted[Standing.RUNNING] >= _needed(rollout, counted)


def _is_out_of_reach(rollout: Rollout, counted: Counter[Standing]) -> bool:
    if not counted[Standing.BAD]:
        return False
    return counted[Standing.RUNNING] + counted[Standing.UNDER_WAY] < _needed(rollout, counted)


def _watched_until(rollout: Rollout, outcomes: Outcomes, now: datetime) -> datetime:
    """Return when the open wave has been watched long enough: counted from when the last device that its gate needs ran."""
    wave = rollout.waves[rollout.wave]
    running_since = sorted(outcomes[device].since for device in wave if outcomes[device].state is DeploymentState.RUNNING)
    reached_at = running_since[_needed(rollout, tally(rollout, wave, outcomes, now)) - 1]
    return reached_at + timedelta(seconds=rollout.soak_s)


def _describe(rollout: Rollout, outcomes: Outcomes, now: datetime) -> str:
    wave = rollout.waves[rollout.wave]
    counted = tally(rollout, wave, outcomes, now)
    parts = [f"{counted[Standing.RUNNING]} of {len(wave)} running"]
    parts += [f"{counted[each]} {each}" for each in (Standing.UNDER_WAY, Standing.BAD, Standing.AWAY) if counted[each]]
    waiting = "; waiting for one to come online" if counted[Standing.AWAY] == len(wave) else ""
    return f"wave {rollout.wave + 1} of {len(rollout.waves)}: {', '.join(parts)}{waiting}"


def _why_halted(rollout: Rollout, number: int, outcomes: Outcomes, now: datetime) -> str:
    wave = rollout.waves[number]
    bad = [device for device in wave if standing(rollout, outcomes[device], now) is Standing.BAD]
    shown = "; ".join(f"{device} {_what_went_wrong(rollout, outcomes[device])}" for device in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"wave {number + 1} of {len(rollout.waves)} can no longer reach {rollout.success_threshold:.0%} running: "
        f"{len(bad)} of {len(wave)} bad: {shown}{more}"
    )


def _what_went_wrong(rollout: Rollout, outcome: Outcome) -> str:
    if outcome.state is None:
        return f"must not have it: {outcome.barred}"
    if outcome.state.is_bad:
        return f"{outcome.state.value.replace('_', ' ')}: {outcome.reason}"
    return f"made no step for {rollout.device_timeout_s:g} s, last {outcome.state.value.replace('_', ' ')}"


def _closing_line(everyone: Counter[Standing]) -> str:
    line = f"{everyone[Standing.RUNNING]} of {everyone.total()} devices run it"
    if everyone[Standing.BAD]:
        line += f"; {everyone[Standing.BAD]} failed, within what was allowed"
    if everyone[Standing.AWAY]:
        line += f"; {everyone[Standing.AWAY]} away, to take it on return"
    return line
