"""Rules of a supervised service: a table of situations, and laws over random histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.serving.supervision.rules import (
    LONGEST_PAUSE_S,
    Actions,
    History,
    Replica,
    Situation,
    after_deadline,
    after_end,
    after_ready,
    hanging_replica,
    next_actions,
    next_wake_at,
    state_of,
)
from edgewright.serving.supervision.service import ServiceState

READY_1, READY_2 = Replica(1, 1, is_ready=True), Replica(2, 2, is_ready=True)
STARTING_2 = Replica(2, 2)
SERVED = History(was_ready=True)
FAILED = History(has_failed=True, reason="no weights")


def situation(
    replicas: tuple[Replica, ...],
    *,
    desired: int = 2,
    answering: int | None = 1,
    wanted: int = 1,
    histories: dict[int, History] | None = None,
) -> Situation:
    return Situation(
        desired=desired, answering=answering, wanted={1: wanted, 2: wanted}, replicas=replicas, histories=histories or {}
    )


@pytest.mark.parametrize(
    ("given_situation", "expected"),
    [
        pytest.param(situation((), desired=1, answering=None), Actions(start=(1,)), id="first start"),
        pytest.param(situation((READY_1,)), Actions(start=(2,)), id="an update starts beside the one that answers"),
        pytest.param(situation((READY_1, STARTING_2)), Actions(), id="the one that answers stays until the new one is ready"),
        pytest.param(situation((READY_1, READY_2), answering=2), Actions(drain=(1,)), id="then it drains"),
        pytest.param(situation((READY_1, READY_2), wanted=2), Actions(start=(2, 1)), id="one of two is not enough to switch"),
        pytest.param(situation((STARTING_2,)), Actions(start=(1,)), id="the one that answers is started again during an update"),
        pytest.param(situation((READY_1, STARTING_2), histories={2: FAILED}), Actions(drain=(2,)), id="a failed one is ended"),
        pytest.param(situation((), histories={2: FAILED}), Actions(start=(1,)), id="after a failure the earlier one continues"),
        pytest.param(situation((), desired=1, answering=None, histories={1: FAILED}), Actions(), id="nothing is left to try"),
        pytest.param(situation((), desired=1, histories={1: History(retry_at=5.1)}), Actions(), id="not during the pause"),
        pytest.param(situation((), desired=1, histories={1: History(retry_at=5.0)}), Actions(start=(1,)), id="after the pause"),
    ],
)
def test_the_actions_of_a_situation(given_situation: Situation, expected: Actions) -> None:
    assert next_actions(given_situation, now=5.0) == expected


@pytest.mark.parametrize(
    ("replicas", "history", "expected"),
    [
        pytest.param((), History(), ServiceState.STARTING, id="no process yet"),
        pytest.param((STARTING_2,), History(), ServiceState.STARTING, id="not ready"),
        pytest.param((READY_1,), History(), ServiceState.STARTING, id="only the earlier one is ready"),
        pytest.param((READY_2,), SERVED, ServiceState.RUNNING, id="ready"),
        pytest.param((STARTING_2,), SERVED, ServiceState.INTERRUPTED, id="ready before"),
        pytest.param((READY_1,), FAILED, ServiceState.FAILED, id="failed"),
    ],
)
def test_the_state_of_the_desired_generation(replicas: tuple[Replica, ...], history: History, expected: ServiceState) -> None:
    assert state_of(situation(replicas, histories={2: history})) is expected


@pytest.mark.parametrize(
    ("history", "exit_code", "ends_it"),
    [
        pytest.param(History(), 2, True, id="wrong input fails at once"),
        pytest.param(History(), 1, False, id="a first failure is tried again"),
        pytest.param(History(failures=1), -9, False, id="a second one as well"),
        pytest.param(History(failures=2), 1, True, id="not a third one"),
        pytest.param(History(failures=9), 3, False, id="an engine that does not answer is awaited"),
        pytest.param(History(failures=100, was_ready=True), 2, False, id="one that was ready is started without limit"),
    ],
)
def test_the_failures_that_end_a_generation(history: History, exit_code: int, ends_it: bool) -> None:
    after = after_end(history, was_ready_for_s=None, exit_code=exit_code, reason="why", retry_for_s=300.0, now=10.0)
    assert (after.has_failed, after.reason) == (ends_it, "why")


def test_a_start_that_failed_at_its_deadline_is_not_tried_again() -> None:
    began = History(began_at=10.0)
    assert not after_end(began, was_ready_for_s=None, exit_code=1, reason="", retry_for_s=5.0, now=14.9).has_failed
    assert after_end(began, was_ready_for_s=None, exit_code=1, reason="", retry_for_s=5.0, now=15.0).has_failed


def test_pauses_double_up_to_a_limit_and_start_again_after_a_minute_of_health() -> None:
    history, pauses = SERVED, []
    for _ in range(12):
        history = after_end(history, was_ready_for_s=1.0, exit_code=1, reason="", retry_for_s=300.0, now=0.0)
        pauses.append(history.retry_at)
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert after_end(history, was_ready_for_s=60.0, exit_code=1, reason="", retry_for_s=300.0, now=0.0).retry_at == 0.1


@pytest.mark.parametrize(("now", "has_failed"), [(12.9, False), (13.0, True)])
def test_a_generation_that_is_not_ready_by_its_deadline_fails(now: float, has_failed: bool) -> None:
    assert after_deadline(History(began_at=10.0), 3.0, now).has_failed is has_failed
    assert not after_deadline(after_ready(History(began_at=10.0)), 3.0, now).has_failed


def test_the_oldest_ready_process_of_a_silent_service_is_replaced() -> None:
    replicas = (STARTING_2, Replica(4, 1, is_ready=True), Replica(3, 1, is_ready=True))
    assert hanging_replica(replicas, silent_s=14.9, hang_timeout_s=15.0) is None
    assert hanging_replica(replicas, silent_s=15.0, hang_timeout_s=15.0) == Replica(3, 1, is_ready=True)
    assert hanging_replica((STARTING_2,), silent_s=99.0, hang_timeout_s=15.0) is None


def test_the_supervisor_wakes_for_the_next_attempt() -> None:
    waiting = {1: History(retry_at=7.0, was_ready=True), 2: History(retry_at=6.0)}
    assert next_wake_at(situation((), histories=waiting)) == 6.0
    assert next_wake_at(situation((READY_1, READY_2), histories=waiting)) is None


EVENTS = st.lists(st.sampled_from(["update", "ready", "crash", "refuse", "wait"]), max_size=40)


@given(events=EVENTS, wanted=st.integers(1, 3))
def test_once_ready_a_service_loses_its_last_ready_process_only_by_a_crash(events: list[str], wanted: int) -> None:
    service = Service(wanted)
    for event in events:
        before = service.ready_count()
        service.happen(event)
        if event in ("update", "ready", "wait"):
            assert service.ready_count() >= min(before, 1), "a drain must leave a ready process"


class Service:
    """A model of the supervisor: events change it, then the actions of the rules are carried out."""

    def __init__(self, wanted: int) -> None:
        self.now, self.count, self.desired = 0.0, 0, 1
        self.answering: int | None = None
        self.wanted = {1: wanted}
        self.replicas: dict[int, Replica] = {}
        self.histories: dict[int, History] = {1: History()}
        self.act()

    def ready_count(self) -> int:
        return sum(each.is_ready for each in self.replicas.values())

    def happen(self, event: str) -> None:
        self.now += 1.0
        getattr(self, event)()
        self.act()

    def update(self) -> None:
        self.desired += 1
        self.wanted[self.desired] = self.wanted[1]
        self.histories[self.desired] = History(began_at=self.now)

    def ready(self) -> None:
        for number, each in self.replicas.items():
            if not each.is_ready:
                self.replicas[number] = Replica(number, each.generation, is_ready=True)
                self.histories[each.generation] = after_ready(self.histories[each.generation])
                self.answering = max(self.answering or 0, each.generation)
                return

    def crash(self) -> None:
        self._end(exit_code=1)

    def refuse(self) -> None:
        self._end(exit_code=2)

    def wait(self) -> None:
        self.now += LONGEST_PAUSE_S

    def _end(self, exit_code: int) -> None:
        if self.replicas:
            each = self.replicas.pop(max(self.replicas))
            ready_for_s = 1.0 if each.is_ready else None
            self.histories[each.generation] = after_end(
                self.histories[each.generation],
                was_ready_for_s=ready_for_s,
                exit_code=exit_code,
                reason="",
                retry_for_s=300.0,
                now=self.now,
            )

    def act(self) -> None:
        given_situation = Situation(
            desired=self.desired,
            answering=self.answering,
            wanted=self.wanted,
            replicas=tuple(self.replicas.values()),
            histories=self.histories,
        )
        actions = next_actions(given_situation, self.now)
        for generation in actions.start:
            self.count += 1
            self.replicas[self.count] = Replica(self.count, generation)
        for number in actions.drain:
            del self.replicas[number]
