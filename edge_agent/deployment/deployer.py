"""How each action of the plan is carried out. What to do, and when, is `plan.py`'s decision.

Until the switch nothing that runs is touched. The order around the links is what makes a kill harmless: the new runner is up
before `active` moves, the trial is stored as passed before `last_good` moves, and whatever lies in between is done again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from edge_agent.backoff import full_jitter_s
from edge_agent.deployment.journal import Deployment, Journal
from edge_agent.deployment.plan import MEASURING_ATTEMPTS, Action, Step, downgrade
from edge_agent.deployment.states import Event
from edge_agent.deployment.trial import Evidence, Verdict, judge
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import ChooseBy, Settings
from edge_agent.storage.store import ACTIVE, LAST_GOOD, Store
from edge_agent.workers.orders import CheckOrder, FetchOrder, pulled_bytes
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts.messages import DeploymentState, DesiredState
from edgewright.contracts.scoring_statistics import ScoringStatistics
from edgewright.errors import OperationError, PackageError

_log = logging.getLogger(__name__)


class Deployer:
    """Carries out the steps of one deployment after the other."""

    def __init__(
        self, settings: Settings, store: Store, journal: Journal, supervisor: Supervisor, changed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._store = store
        self._journal = journal
        self._supervisor = supervisor
        self._changed = changed
        self._before: ScoringStatistics | None = None
        self._pauses = 0
        self._retry_at_s = 0.0
        self._actions: dict[Action, Callable[[Deployment, str], Awaitable[None]]] = {
            Action.SUPERSEDE: self._supersede,
            Action.FETCH: self._fetch,
            Action.STAGE: self._stage,
            Action.SWITCH: self._switch,
            Action.WATCH: self._watch,
            Action.ROLL_BACK: self._roll_back,
            Action.RESTORE: self._restore,
            Action.GIVE_UP: self._give_up,
        }

    @property
    def retry_in_s(self) -> float:
        """How long to wait before the next try; 0 when it is due."""
        return max(0.0, self._retry_at_s - time.monotonic())

    def retry_now(self) -> None:
        """End a pause early: the network has come back."""
        self._retry_at_s, self._pauses = 0.0, 0

    async def accept(self, desired: DesiredState, reason: str) -> None:
        """Store a newer wish, and refuse it at once where it is a downgrade that nobody allowed."""
        self.retry_now()
        self._journal.accept(desired, reason)
        self._say()
        active = self._store.active()
        why_not = downgrade(desired, active.running if active else None)
        if why_not is not None:
            self._step(Event.REFUSE, why_not)

    async def take(self, step: Step) -> None:
        """Carry out one step of the plan on the deployment in hand."""
        deployment = self._journal.current()
        assert deployment is not None, "the plan begins with accept"
        await self._actions[step.action](deployment, step.reason)

    def resume(self) -> None:
        """After a start of the agent: count it where the deployment is in the middle of a switch or trial."""
        deployment = self._journal.current()
        if deployment is not None and deployment.state in (DeploymentState.SWITCHING, DeploymentState.TRIAL):
            reason = f"the agent started again in the middle of {deployment.state.value}"
            self._step(Event.RESUME, reason, attempt=deployment.attempt + 1)

    def settle(self) -> None:
        """Do what follows a final state, as often as it takes: `last_good` moves, and what nothing reaches is removed."""
        deployment = self._journal.current()
        if deployment is not None and not deployment.state.is_final:
            return
        self._store.keep_ballast()
        if deployment is None:
            return
        active, last_good = self._store.active(), self._store.last_good()
        version = deployment.desired.desired_number
        passed = deployment.state is DeploymentState.RUNNING and active and active.desired.desired_number == version
        if passed and active != last_good:
            self._store.mark_committed(version)
            self._store.point(LAST_GOOD, version)
        freed_bytes = self._store.collect()
        if freed_bytes:
            _log.info("collected size_bytes=%d", freed_bytes)

    def count(self, online_s: float) -> None:
        """Store the seconds online and the bytes pulled for the deployment in hand."""
        deployment = self._journal.current()
        if deployment is not None and not deployment.state.is_final:
            self._journal.count(bytes_pulled=self._pulled(deployment), online_s=online_s)

    def wait(self, reason: str) -> None:
        """Pause without spending an attempt, and say why."""
        pause_s = self._pause()
        _log.warning("waiting pause_s=%.1f reason=%r", pause_s, reason)
        self._journal.note(reason, datetime.now(UTC) + timedelta(seconds=pause_s))
        self._changed()

    async def _supersede(self, _deployment: Deployment, reason: str) -> None:
        self._step(Event.SUPERSEDE, reason)
        self.settle()

    async def _give_up(self, _deployment: Deployment, reason: str) -> None:
        self._step(Event.GIVE_UP, reason)
        self.settle()

    async def _fetch(self, deployment: Deployment, _reason: str) -> None:
        desired = deployment.desired
        if deployment.state is DeploymentState.ACCEPTED:
            deployment = self._step(Event.FETCH, f"fetching {desired.model}:{desired.version}")
        order = self._fetch_order(deployment)
        left_s = max(1.0, desired.device_timeout_s - deployment.online_s)
        # What measuring may take is a part of the time, so that enough is left to do without.
        timeout_s = left_s / 2 if order.choose is ChooseBy.MEASURED else left_s
        answer = await run_worker("edge_agent.packages.fetch", order, timeout_s=timeout_s)
        deployment = self._journal.count(bytes_pulled=self._pulled(deployment), online_s=0.0)
        if answer.record is None:
            self._failed(deployment, answer)
            return
        try:
            self._store.write_slot(answer.record)
        except PackageError as gone:
            self._failed(deployment, WorkerResult(failure=Failure.FAILED, reason=str(gone)))
            return
        reason = f"variant {answer.record.running.variant} is here and every byte is verified"
        self._step(Event.VERIFY, reason, attempt=1, choice=answer.record.choice)

    def _fetch_order(self, deployment: Deployment) -> FetchOrder:
        """Say what to fetch and how to choose; where measuring has failed a few times, the profile decides."""
        order = FetchOrder(
            state_directory=str(self._store.root),
            desired=deployment.desired,
            choose=self._settings.choose,
            backend=self._settings.backend,
            threads=self._settings.threads,
        )
        if order.choose is ChooseBy.PROFILE or deployment.attempt <= MEASURING_ATTEMPTS:
            return order
        why = f"{MEASURING_ATTEMPTS} attempts failed ({deployment.reason})"
        return replace(order, choose=ChooseBy.PROFILE, why_unmeasured=why)

    async def _stage(self, deployment: Deployment, _reason: str) -> None:
        version = deployment.desired.desired_number
        if self._store.slot(version) is None:
            self._step(Event.DAMAGE, "the slot lost a file: it is fetched again")
            return
        settings = self._settings
        order = CheckOrder(slot=str(self._store.slot_path(version)), backend=settings.backend, threads=settings.threads)
        answer = await run_worker("edge_agent.packages.check", order, timeout_s=settings.check_timeout_s)
        if answer.failure in (Failure.CRASHED, Failure.TIMED_OUT):
            # On a machine of its own a model does not crash or hang by chance; trying again would only cost time.
            self._refuse(f"the model must load and score the golden samples, but the process that tried {answer.reason}")
        elif answer.failure is not None:
            self._failed(deployment, answer)
        else:
            self._step(Event.STAGE, answer.reason)

    async def _switch(self, deployment: Deployment, _reason: str) -> None:
        if deployment.state is DeploymentState.STAGED:
            deployment = self._step(Event.SWITCH, "starting the new version beside the old one", attempt=1)
        version = deployment.desired.desired_number
        slot = self._store.slot(version)
        if slot is None:
            self._step(Event.ROLL_BACK, "the slot lost a file before the switch")
            return
        if self._supervisor.running != slot:
            self._before = self._supervisor.scoring
        try:
            await self._supervisor.hand_over(slot)
        except OperationError as failed:
            self._step(Event.ROLL_BACK, str(failed))
            return
        self._store.point(ACTIVE, version)
        self._step(Event.TRY, f"on trial for {deployment.desired.trial_s:g} s", attempt=1)

    async def _watch(self, deployment: Deployment, _reason: str) -> None:
        started_s = time.monotonic()
        trial_s = deployment.desired.trial_s
        while True:
            await self._supervisor.probe()
            seen = self._evidence(time.monotonic() - started_s)
            judgement = judge(seen, trial_s)
            if judgement.verdict is not Verdict.WATCH:
                break
            await asyncio.sleep(min(self._settings.probe_every_s, max(0.05, trial_s - seen.elapsed_s)))
        if judgement.verdict is Verdict.ROLL_BACK:
            self._step(Event.ROLL_BACK, judgement.reason)
            return
        self._step(Event.COMMIT, judgement.reason)
        self.settle()

    async def _roll_back(self, _deployment: Deployment, reason: str) -> None:
        self._step(Event.ROLL_BACK, reason)

    async def _restore(self, deployment: Deployment, _reason: str) -> None:
        good = self._store.last_good()
        if good is None:
            await self._supervisor.stop()
            self._store.unpoint(ACTIVE)
            await self._supervisor.open_reception()
            outcome = "nothing ran before it, so nothing runs"
        else:
            self._store.point(ACTIVE, good.desired.desired_number)
            try:
                await self._supervisor.hand_over(good)
            except OperationError as failed:
                self.wait(f"{deployment.reason}; the last good version does not start yet: {failed}")
                return
            outcome = f"{good.running.model}:{good.running.version} runs again"
        self._step(Event.RESTORE, f"{deployment.reason}; {outcome}")
        self.settle()

    def _evidence(self, elapsed_s: float) -> Evidence:
        supervisor = self._supervisor
        return Evidence(
            elapsed_s=elapsed_s,
            crashes=supervisor.crashes,
            silent_s=supervisor.silent_s,
            scoring=supervisor.scoring,
            before=self._before,
        )

    def _failed(self, deployment: Deployment, answer: WorkerResult) -> None:
        if answer.failure is Failure.REFUSED:
            self._refuse(answer.reason)
        elif answer.failure in (Failure.OFFLINE, Failure.FULL):
            self.wait(answer.reason)
        else:
            pause_s = self._pause()
            attempt = deployment.attempt + 1
            self._step(Event.RETRY, answer.reason, attempt=attempt)
            self._journal.note(answer.reason, datetime.now(UTC) + timedelta(seconds=pause_s))

    def _refuse(self, reason: str) -> None:
        self._step(Event.REFUSE, reason)
        self.settle()

    def _pause(self) -> float:
        pause_s = full_jitter_s(self._pauses, self._settings.retry_base_s, self._settings.retry_cap_s)
        self._pauses += 1
        self._retry_at_s = time.monotonic() + pause_s
        return pause_s

    def _step(
        self, event: Event, reason: str, *, attempt: int | None = None, choice: tuple[str, ...] | None = None
    ) -> Deployment:
        deployment = self._journal.step(event, reason, attempt=attempt, choice=choice)
        if event is not Event.RETRY:
            self.retry_now()
        self._say()
        return deployment

    def _say(self) -> None:
        deployment = self._journal.current()
        if deployment is not None:
            _log.info(
                "%s desired_number=%d attempt=%d reason=%r",
                deployment.state.value,
                deployment.desired.desired_number,
                deployment.attempt,
                deployment.reason,
            )
        self._changed()

    def _pulled(self, deployment: Deployment) -> int:
        return pulled_bytes(self._store, deployment.desired.desired_number)
