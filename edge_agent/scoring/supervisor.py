"""Keep one slot scoring: hand over between runners, restart a runner that exits, kill one that hangs.

A hand-over starts the new runner first and drains the old one when the new one is ready, so no request is lost. A runner that
exits unexpectedly is restarted after a pause that doubles up to 5 s, independently of downloads.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.drivers.process import Runner, RunnerOptions, ScoringSockets
from edge_agent.storage.integrity import DamagedSlotError
from edge_agent.storage.store import SlotRecord
from edgewright.contracts import wire
from edgewright.contracts.scoring_statistics import ScoringStatistics
from edgewright.errors import MessageError, OperationError
from edgewright.serving.supervision.placeholder import Placeholder

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
NO_MODEL = "this device has no model yet: roll one out to it, then try again"
HANG_TIMEOUT_S = 15.0
INFERENCE_MARGIN_S = 5.0
"""Time in which a runner ends after a run of its model that took too long; a small model blocks the probes meanwhile."""
PROBE_TIMEOUT_S = 5.0


class Supervisor:
    """The slot that should score and the runner that scores with it."""

    def __init__(
        self,
        workload: str,
        sockets: ScoringSockets,
        slot_path: Callable[[SlotRecord], Path],
        options: RunnerOptions,
        failed: Callable[[SlotRecord, OperationError | None], None] = lambda _record, _error: None,
    ) -> None:
        self.crashes = 0
        """Unexpected exits since the last hand-over."""
        self.killed = 0
        """The part of `crashes` that the device caused: killed from outside, or not started."""
        self.scoring: ScoringStatistics | None = None
        """The latest statistics of the runner."""
        self._workload = workload
        self._sockets = sockets
        self._slot_path = slot_path
        self._options = options
        self._failed = failed
        """Called with the error of a runner that does not start while no other one runs, and with None when one runs again."""
        self._desired: SlotRecord | None = None
        self._runner: Runner | None = None
        self._answered_at = time.monotonic()
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._placeholders = [Placeholder(each, NO_MODEL) for each in (sockets.own, sockets.agent) if each is not None]

    @property
    def running(self) -> SlotRecord | None:
        """The slot of the running runner."""
        return self._runner.record if self._runner is not None and self._runner.is_alive else None

    @property
    def runner_pid(self) -> int | None:
        """The process id of the running runner."""
        return self._runner.pid if self._runner is not None and self._runner.is_alive else None

    @property
    def unresponsive_s(self) -> float:
        """Seconds since the runner stopped answering; 0 if it answered the last probe."""
        return 0.0 if self._answered_at == float("inf") else time.monotonic() - self._answered_at

    async def start(self, record: SlotRecord) -> None:
        """Start the runner of `record`; if it fails, let `watch` retry."""
        try:
            await self.hand_over(record)
        except OperationError as error:
            _log.error("could not start runner variant=%s reason=%r", record.running.variant, str(error))
            self.crashes, self.killed = self.crashes + 1, self.killed + 1
            self._desired = record
            await self._give_up(record, error)
            self._changed.set()

    async def _give_up(self, record: SlotRecord, error: OperationError) -> None:
        """Answer 503 until a runner starts; a damaged slot is not tried again."""
        if isinstance(error, DamagedSlotError):
            self._desired = self._runner = None
        await self._open_placeholders(f"no model runs on this device at the moment: {error}")
        self._failed(record, error)

    async def hand_over(self, record: SlotRecord) -> None:
        """Start a runner of `record`, then drain the previous one.

        Raises:
            OperationError: the new runner does not start; the previous one continues.
        """
        async with self._changing:
            if self.running == record:
                return
            runner = await Runner.run(self._workload, record, self._slot_path(record), self._sockets, self._options)
            await self.close_placeholders()
            previous, self._runner, self._desired = self._runner, runner, record
            self.crashes, self.killed, self.scoring = 0, 0, None
            self._changed.set()
            if previous is not None and previous.is_alive:
                await previous.drain(self._options.drain_timeout_s)
            self._answered_at = time.monotonic()
            self._failed(record, None)
            _log.info("scoring variant=%s version=%d pid=%d", record.running.variant, record.running.version, runner.pid)

    async def rehearse(self, record: SlotRecord) -> None:
        """Start a runner of `record` that no client reaches, and end it as soon as it has scored the golden samples.

        Raises:
            OperationError: as `Runner.run`.
        """
        with socket.create_server(("127.0.0.1", 0)) as own:
            own.setblocking(False)
            runner = await Runner.run(self._workload, record, self._slot_path(record), ScoringSockets(own, None), self._options)
            await runner.drain(self._options.drain_timeout_s)

    async def stop(self) -> None:
        """Stop the runner and do not restart it."""
        async with self._changing:
            self._desired = None
            if self._runner is not None and self._runner.is_alive:
                await self._runner.drain(self._options.drain_timeout_s)
            self._runner = None
            self.scoring = None

    async def open_placeholder(self, reason: str = NO_MODEL) -> None:
        """Answer 503 on the scoring sockets until the next runner starts."""
        if self._desired is None:
            await self._open_placeholders(reason)

    async def close_placeholders(self) -> None:
        """Stop to answer 503; another server may use the sockets."""
        for each in self._placeholders:
            await each.close()

    async def leave_agent_socket(self) -> None:
        """Stop to accept at the agent's address, where another process accepts already; open requests there are answered."""
        async with self._changing:
            if self._sockets.agent is None:
                return
            self._sockets.agent = None
            await self._placeholders.pop().close()
            if self._runner is not None and self._runner.is_alive:
                self._runner.leave_agent_socket()

    async def follow_name(self, workload: str) -> None:
        """Let a runner serve the paths of the workload's new name; one that runs is replaced."""
        if workload == self._workload:
            return
        async with self._changing:
            self._workload = workload
            previous = self._runner
            if previous is None or not previous.is_alive:
                return
            try:
                self._runner = await Runner.run(
                    workload, previous.record, self._slot_path(previous.record), self._sockets, self._options
                )
            except OperationError as error:  # the next runner has the name
                _log.error("could not rename runner workload=%s reason=%r", workload, str(error))
                return
            self._changed.set()
            await previous.drain(self._options.drain_timeout_s)

    async def _open_placeholders(self, reason: str) -> None:
        for each in self._placeholders:
            await each.open(reason)

    async def watch(self) -> None:
        """Restart a runner that exits, forever."""
        pause_s = FIRST_PAUSE_S
        while True:
            runner, desired = self._runner, self._desired
            self._changed.clear()
            if desired is None or (runner is not None and runner.is_alive and runner.record == desired):
                started_s = time.monotonic()
                if await self._exit_of(runner) is None:
                    continue
                if time.monotonic() - started_s > LONGEST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            await self._restart()

    async def probe(self) -> None:
        """Read the statistics of the runner; kill a runner that has not answered for too long, so that `watch` restarts it."""
        async with self._changing:
            runner = self._runner
            if runner is None or not runner.is_alive:
                self._mark_unresponsive()
                return
            statistics = await asyncio.to_thread(_statistics, self._sockets.own.getsockname())
            if statistics is not None:
                self.scoring, self._answered_at = statistics, float("inf")
                return
            self._mark_unresponsive()
            if self.unresponsive_s > max(HANG_TIMEOUT_S, self._options.inference_timeout_s + INFERENCE_MARGIN_S):
                _log.error("killed runner pid=%d reason=%r", runner.pid, f"no response for {self.unresponsive_s:.0f} s")
                self._answered_at = time.monotonic()
                await runner.kill()

    async def probe_forever(self, every_s: float) -> None:
        """Probe at a fixed interval, forever."""
        while True:
            await asyncio.sleep(every_s)
            await self.probe()

    def _mark_unresponsive(self) -> None:
        if self._answered_at == float("inf"):
            self._answered_at = time.monotonic()

    async def _exit_of(self, runner: Runner | None) -> str | None:
        """Wait for an unexpected exit of `runner` and return its cause; None if another slot should run by then."""
        changed = asyncio.create_task(self._changed.wait())
        ended = asyncio.create_task(runner.ended()) if runner is not None else None
        waiting: list[asyncio.Task[Any]] = [changed] if ended is None else [changed, ended]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if runner is None or ended is None or not ended.done() or runner is not self._runner or self._desired is None:
                return None
            cause = ended.result()
            self.crashes += 1
            self.killed += not runner.crashed
            _log.error("runner exited variant=%s reason=%r crashes=%d", runner.record.running.variant, cause, self.crashes)
            return cause
        finally:
            for task in waiting:
                task.cancel()

    async def _restart(self) -> None:
        async with self._changing:
            desired = self._desired
            if desired is None or self.running == desired:
                return
            try:
                self._runner = await Runner.run(self._workload, desired, self._slot_path(desired), self._sockets, self._options)
            except OperationError as error:
                self.crashes, self.killed = self.crashes + 1, self.killed + 1
                _log.error("could not start runner variant=%s reason=%r", desired.running.variant, str(error))
                await self._give_up(desired, error)
                return
            await self.close_placeholders()
            self._failed(desired, None)
            self._answered_at = time.monotonic()
            _log.info("restarted runner variant=%s pid=%d", desired.running.variant, self._runner.pid)


def _statistics(address: tuple[str, int]) -> ScoringStatistics | None:
    """Return the statistics, read from the scoring address that clients use; None on any failure."""
    connection = http.client.HTTPConnection(*address, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/stats", headers={"Connection": "close"})
        return wire.decode(connection.getresponse().read(1 << 20), ScoringStatistics, what="the statistics of the runner")
    except (OSError, http.client.HTTPException, MessageError):
        return None
    finally:
        connection.close()
