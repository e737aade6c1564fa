"""Carry out the actions that `plan.py` decides on, for one workload.

The running version is not touched before the switch. The order of the steps makes a kill harmless: the new runner is up before
`active` changes, and the trial is stored as passed before `last_good` changes. Steps in between are repeated after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from edge_agent.backoff import full_jitter_s
from edge_agent.deployment.budget import Beside, MemoryBudget, would_give_way
from edge_agent.deployment.check import check_slot
from edge_agent.deployment.journal import Deployment, Journal
from edge_agent.deployment.plan import MEASURING_ATTEMPTS, Action, Step, downgrade
from edge_agent.deployment.repair import Repairs
from edge_agent.deployment.states import Event
from edge_agent.deployment.trial import Evidence, Verdict, judge
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import ChooseBy, Settings
from edge_agent.storage.integrity import DamagedSlotError, slot_damage
from edge_agent.storage.links import ACTIVE, LAST_GOOD, Links, linked_records
from edge_agent.storage.store import Store
from edge_agent.workers.requests import FetchRequest, pulled_bytes
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts.messages import DeploymentState, DesiredState, FailureCause
from edgewright.contracts.scoring_statistics import ScoringStatistics
from edgewright.errors import OperationError, PackageError, StorageFullError

_log = logging.getLogger(__name__)


class Deployer:
    """Executor of the plan's steps; it owns the reason that blocks the agent."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        links: Links,
        *,
        journal: Journal,
        supervisor: Supervisor,
        changed: Callable[[], None],
        beside: Beside,
    ) -> None:
        self.blocked_reason: str | None = None
        """Reason why the last step could not be stored; None when it could."""
        self.repairs = Repairs(store, links, journal)
        self._settings = settings
        self._store = store
        self._links = links
        self._journal = journal
        self._supervisor = supervisor
        self._changed = changed
        self._beside = beside
        self._memory = MemoryBudget(settings.memory_limit_bytes, beside)
        self._before: ScoringStatistics | None = None
        self._pauses = 0
        self._retry_at_s = 0.0

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt; 0 when it is due."""
        return max(0.0, self._retry_at_s - time.monotonic())

    def retry_now(self) -> None:
        """End the pause before the next attempt and reset its length."""
        self._retry_at_s, self._pauses = 0.0, 0

    async def accept(self, desired: DesiredState, reason: str) -> None:
        """Store a newer desired state; refuse it at once if it is a downgrade that is not allowed."""
        self.retry_now()
        self._journal.accept(desired, reason)
        self._announce()
        active = self._links.active()
        reason_against = downgrade(desired, active.running if active else None)
        if reason_against is not None:
            self._step(Event.REFUSE, reason_against, cause=FailureCause.CALLER)

    async def take(self, step: Step) -> None:
        """Carry out one step of the plan on the current deployment."""
        if step.action is Action.REPAIR:
            await self._repair()
            return
        deployment = self._journal.current()
        assert deployment is not None, "the plan begins with accept"
        match step.action:
            case Action.FETCH:
                await self._fetch(deployment)
            case Action.STAGE:
                await self._stage(deployment)
            case Action.SWITCH:
                await self._switch(deployment)
            case Action.WATCH:
                await self._watch(deployment)
            case Action.RESTORE:
                await self._restore(deployment)
            case Action.ROLL_BACK:
                self._step(Event.ROLL_BACK, step.reason, cause=deployment.cause or FailureCause.DEVICE)
            case Action.SUPERSEDE:
                self._finish(Event.SUPERSEDE, step.reason)
            case Action.GIVE_UP:
                self._finish(Event.GIVE_UP, step.reason, cause=deployment.cause or FailureCause.NETWORK)
            case Action.WAIT | Action.ACCEPT | Action.REPAIR:
                raise AssertionError(f"the agent handles {step.action.name} itself")

    def resume(self) -> None:
        """Count a start of the agent against a deployment that is in the middle of a switch or trial."""
        deployment = self._journal.current()
        if deployment is not None and deployment.state in (DeploymentState.SWITCHING, DeploymentState.TRIAL):
            reason = f"the agent restarted during {deployment.state.value}"
            self._step(Event.RESUME, reason, attempt=deployment.attempt + 1)

    @property
    def is_settled(self) -> bool:
        """True unless a deployment is in progress or a slot is damaged, whose good files are still needed."""
        deployment = self._journal.current()
        return (deployment is None or deployment.state.is_final) and self.repairs.damaged is None

    def settle(self) -> None:
        """Finish a deployment in a final state: update `last_good` and remove unreachable files. Safe to repeat."""
        if not self.is_settled:
            return
        deployment = self._journal.current()
        self._store.restore_ballast()
        if deployment is None:
            return
        active, last_good = self._links.active(), self._links.last_good()
        number = deployment.desired.desired_number
        passed = deployment.state is DeploymentState.RUNNING and active and active.desired.desired_number == number
        if passed and active != last_good:
            self._store.mark_committed(number)
            self._links.set_link(LAST_GOOD, number)
        freed_bytes = self._store.collect(linked_records(self._store)) if self._beside.may_collect() else 0
        if freed_bytes:
            _log.info("collected garbage size_bytes=%d", freed_bytes)

    def count(self, online_s: float) -> None:
        """Store the seconds online and the bytes pulled for the current deployment."""
        deployment = self._journal.current()
        if deployment is not None and not deployment.state.is_final:
            self._journal.count(bytes_pulled=self._pulled(deployment), online_s=online_s)

    def block(self, reason: str) -> None:
        """Report a full disk and pause; the deployment continues when there is space again."""
        self.blocked_reason = reason
        try:
            self.wait(reason)
        except StorageFullError:  # the journal has no space either, but the report still gives the reason
            _log.warning("blocked reason=%r", reason)
            self._changed()

    def unblock(self) -> None:
        """Clear the blocked reason after a step that was stored."""
        self.blocked_reason = None

    def wait(self, reason: str) -> None:
        """Pause without counting an attempt, and store the reason."""
        pause_s = self._pause()
        _log.warning("waiting pause_s=%.1f reason=%r", pause_s, reason)
        self._journal.note(reason, datetime.now(UTC) + timedelta(seconds=pause_s))
        self._changed()

    async def _fetch(self, deployment: Deployment) -> None:
        desired = deployment.desired
        if deployment.state is DeploymentState.ACCEPTED:
            deployment = self._step(Event.FETCH, f"fetching {desired.model}:{desired.version}")
        request = self._fetch_request(deployment)
        left_s = max(1.0, desired.device_timeout_s - deployment.online_s)
        # Measuring gets half of the time, so that enough is left to fetch without it.
        timeout_s = left_s / 2 if request.choose is ChooseBy.MEASURED else left_s
        result = await run_worker("edge_agent.packages.fetch", request, timeout_s=timeout_s)
        if result.failure in (Failure.FAILED, Failure.TIMED_OUT):  # the registry answered with an error, or too slowly
            result = replace(result, cause=FailureCause.NETWORK)
        deployment = self._journal.count(bytes_pulled=self._pulled(deployment), online_s=0.0)
        if result.record is None:
            self._failed(deployment, result)
            return
        try:
            self._store.write_slot(result.record)
        except PackageError as error:
            self._failed(deployment, WorkerResult(failure=Failure.FAILED, reason=str(error), cause=FailureCause.DEVICE))
            return
        reason = f"variant {result.record.running.variant} is complete and every byte is verified"
        self._step(Event.VERIFY, reason, attempt=1, choice=result.record.choice)

    def _fetch_request(self, deployment: Deployment) -> FetchRequest:
        """Return the request; after a few failed attempts at measuring, the profile chooses."""
        request = FetchRequest(
            state_directory=str(self._store.root),
            desired=deployment.desired,
            choose=self._settings.choose,
            backend=self._settings.backend,
            threads=self._settings.threads,
        )
        if request.choose is ChooseBy.PROFILE or deployment.attempt <= MEASURING_ATTEMPTS:
            return request
        why = f"{MEASURING_ATTEMPTS} attempts failed ({deployment.reason})"
        return replace(request, choose=ChooseBy.PROFILE, why_unmeasured=why)

    async def _stage(self, deployment: Deployment) -> None:
        number = deployment.desired.desired_number
        damage = await asyncio.to_thread(slot_damage, self._store.slot_path(number))
        if damage is not None:
            self._step(Event.DAMAGE, f"{damage} in slot {number}: it is fetched again")
            return
        async with self._beside.loading:
            result = await check_slot(self._store.slot_path(number), self._settings, self._supervisor)
        self._memory.measured(number, result.memory_bytes)
        starved = self._memory.refusal(deployment.desired) if result.failure is None else None
        if result.failure is Failure.OVER_MEMORY:
            reason = f"the check of the model {result.reason}{would_give_way(self._beside.memory())}"
            self._finish(Event.REFUSE, reason, cause=result.cause)
        elif result.failure in (Failure.CRASHED, Failure.TIMED_OUT):
            # A model that crashes or hangs in its own process does so again, so a retry would only cost time.
            reason = f"the model must load and score the golden samples, but the check process {result.reason}"
            self._finish(Event.REFUSE, reason, cause=result.cause)
        elif starved is not None:
            self._finish(Event.REFUSE, starved, cause=FailureCause.DEVICE)
        elif result.failure is not None:
            self._failed(deployment, result)
        else:
            self._step(Event.STAGE, result.reason)

    async def _switch(self, deployment: Deployment) -> None:
        async with self._beside.loading:
            await self._switch_alone(deployment)

    async def _switch_alone(self, deployment: Deployment) -> None:
        if deployment.state is DeploymentState.STAGED:
            starved = self._memory.refusal(deployment.desired)
            if starved is not None:
                self._finish(Event.REFUSE, starved, cause=FailureCause.DEVICE)
                return
            deployment = self._step(Event.SWITCH, "starting the new version while the old one runs", attempt=1)
        number = deployment.desired.desired_number
        slot = self._store.slot(number)
        if slot is None:
            reason = "a file of the slot went missing before the switch"
            self._step(Event.ROLL_BACK, reason, cause=FailureCause.DEVICE)
            return
        if self._supervisor.running != slot:
            self._before = self._supervisor.scoring
        try:
            await self._supervisor.hand_over(slot)
        except OperationError as error:
            self._step(Event.ROLL_BACK, str(error), cause=FailureCause.DEVICE)  # it passed its check on this device just before
            return
        self._links.set_link(ACTIVE, number)
        self._step(Event.TRY, f"on trial for {deployment.desired.trial_s:g} s", attempt=1)

    async def _watch(self, deployment: Deployment) -> None:
        started_s = time.monotonic()
        trial_s = deployment.desired.trial_s
        while True:
            await self._supervisor.probe()
            evidence = self._evidence(time.monotonic() - started_s)
            judgement = judge(evidence, trial_s)
            if judgement.verdict is not Verdict.WATCH:
                break
            await asyncio.sleep(min(self._settings.probe_every_s, max(0.05, trial_s - evidence.elapsed_s)))
        if judgement.verdict is Verdict.ROLL_BACK:
            self._step(Event.ROLL_BACK, judgement.reason, cause=judgement.cause)
        else:
            self.repairs.clear()  # what ran before is not needed any more
            self._finish(Event.COMMIT, judgement.reason)

    async def _restore(self, deployment: Deployment) -> None:
        self.repairs.clear()  # of the version that is left
        good = self._links.last_good()
        if good is None:
            self.repairs.inspect()
            await self._supervisor.stop()
            self._links.remove_link(ACTIVE)
            await self._supervisor.open_placeholder()
            outcome = self.repairs.damage or "there is no earlier version, so none runs"
        else:
            self._links.set_link(ACTIVE, good.desired.desired_number)
            try:
                await self._supervisor.hand_over(good)
            except DamagedSlotError as error:
                await self._supervisor.stop()
                self.repairs.runner_failed(good, error)
                self._finish(Event.RESTORE, f"{deployment.reason}; {self.repairs.damage}", cause=deployment.cause)
                return
            except OperationError as error:
                self.wait(f"{deployment.reason}; the last good version does not start yet: {error}")
                return
            outcome = f"{good.running.model}:{good.running.version} runs again"
        self._finish(Event.RESTORE, f"{deployment.reason}; {outcome}", cause=deployment.cause)

    async def _repair(self) -> None:
        """Fetch the damaged slot again and start it; blobs that are whole are not pulled again."""
        desired = self.repairs.damaged
        assert desired is not None, "the plan repairs only damage"
        _log.warning("repairing desired_number=%d reason=%r", desired.desired_number, self.repairs.damage)
        self._changed()
        request = FetchRequest(
            state_directory=str(self._store.root), desired=desired, backend=self._settings.backend, threads=self._settings.threads
        )
        result = await run_worker("edge_agent.packages.fetch", request, timeout_s=desired.device_timeout_s)
        try:
            if result.record is None:
                raise OperationError(result.reason)
            self._store.write_slot(result.record, replace=True)
            self._store.mark_committed(desired.desired_number)
            await self._supervisor.hand_over(result.record)
        except (OperationError, PackageError) as error:
            if isinstance(error, StorageFullError):
                raise
            pause_s = self._pause()
            _log.warning("could not repair pause_s=%.1f reason=%r", pause_s, str(error))
            return
        for link in (ACTIVE, LAST_GOOD):
            self._links.set_link(link, desired.desired_number)
        self.repairs.clear()
        self.retry_now()
        self._journal.record("repair", f"{desired.model}:{desired.version} was damaged and has been fetched again")
        self._announce()

    def _evidence(self, elapsed_s: float) -> Evidence:
        supervisor = self._supervisor
        return Evidence(
            elapsed_s=elapsed_s,
            crashes=supervisor.crashes,
            killed=supervisor.killed,
            unresponsive_s=supervisor.unresponsive_s,
            scoring=supervisor.scoring,
            before=self._before,
        )

    def _failed(self, deployment: Deployment, result: WorkerResult) -> None:
        if result.failure is Failure.REFUSED:
            self._finish(Event.REFUSE, result.reason, cause=result.cause)
        elif result.failure is Failure.FULL:
            self.wait(f"{result.reason}{would_give_way(self._beside.disk())}")
        elif result.failure is Failure.OFFLINE:
            self.wait(result.reason)
        else:
            pause_s = self._pause()
            self._step(Event.RETRY, result.reason, attempt=deployment.attempt + 1, cause=result.cause)
            self._journal.note(result.reason, datetime.now(UTC) + timedelta(seconds=pause_s))

    def _finish(self, event: Event, reason: str, *, cause: FailureCause | None = None) -> None:
        self._step(event, reason, cause=cause)
        self.settle()

    def _pause(self) -> float:
        pause_s = full_jitter_s(self._pauses, self._settings.retry_base_s, self._settings.retry_cap_s)
        self._pauses += 1
        self._retry_at_s = time.monotonic() + pause_s
        return pause_s

    def _step(
        self,
        event: Event,
        reason: str,
        *,
        attempt: int | None = None,
        choice: tuple[str, ...] | None = None,
        cause: FailureCause | None = None,
    ) -> Deployment:
        deployment = self._journal.step(event, reason, attempt=attempt, choice=choice, cause=cause)
        if event is not Event.RETRY:
            self.retry_now()
        self._announce()
        return deployment

    def _announce(self) -> None:
        """Log the deployment's state and ask for a report."""
        deployment = self._journal.current()
        if deployment is not None:
            _log.info(
                "%s workload=%s desired_number=%d attempt=%d reason=%r",
                deployment.state.value,
                self._links.workload,
                deployment.desired.desired_number,
                deployment.attempt,
                deployment.reason,
            )
        self._changed()

    def _pulled(self, deployment: Deployment) -> int:
        return pulled_bytes(self._store, deployment.desired.desired_number)
