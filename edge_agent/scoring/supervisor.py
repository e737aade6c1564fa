"""Keep one slot scoring: hand over from one runner to the next, restart what ends, end what hangs.

A hand-over starts the new runner first and drains the old one when the new one is ready, so no request is lost. A runner that
ends by itself is started again after a pause that doubles, never longer than 5 s; downloads have no say in it.
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

from edge_agent.drivers.process import Runner, RunnerOptions
from edge_agent.scoring.placeholder import Reception
from edge_agent.storage.store import SlotRecord
from edgewright.contracts import wire
from edgewright.contracts.scoring_statistics import ScoringStatistics
from edgewright.errors import MessageError, OperationError

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
HANGS_AFTER_S = 15.0
PROBE_TIMEOUT_S = 5.0


class Supervisor:
    """The one slot that should score, and the runner that does."""

    def __init__(self, listening: socket.socket, slot_path: Callable[[SlotRecord], Path], options: RunnerOptions) -> None:
        self.crashes = 0
        """Unexpected ends since the last hand-over."""
        self.scoring: ScoringStatistics | None = None
        """What the runner last said of itself."""
        self._listening = listening
        self._slot_path = slot_path
        self._options = options
        self._wanted: SlotRecord | None = None
        self._runner: Runner | None = None
        self._answered_at = time.monotonic()
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._reception = Reception(listening)

    @property
    def running(self) -> SlotRecord | None:
        """The slot whose runner is alive."""
        return self._runner.record if self._runner is not None and self._runner.is_alive else None

    @property
    def runner_pid(self) -> int | None:
        """The process that scores."""
        return self._runner.pid if self._runner is not None and self._runner.is_alive else None

    @property
    def silent_s(self) -> float:
        """For how long the runner has not answered; 0 when it answered the last probe."""
        return 0.0 if self._answered_at == float("inf") else time.monotonic() - self._answered_at

    async def want(self, record: SlotRecord) -> None:
        """Make `record` what should run and, where it does not start, leave it to `watch` to try again."""
        try:
            await self.hand_over(record)
        except OperationError as failed:
            _log.error("did not start variant=%s reason=%r", record.running.variant, str(failed))
            self.crashes += 1
            self._wanted = record
            self._changed.set()

    async def hand_over(self, record: SlotRecord) -> None:
        """Start `record`, then drain what ran before; on `OperationError` what ran before goes on."""
        async with self._changing:
            if self.running == record:
                return
            await self._reception.close()
            fresh = await Runner.start(record, self._slot_path(record), self._listening, self._options)
            old, self._runner, self._wanted = self._runner, fresh, record
            self.crashes, self.scoring = 0, None
            self._changed.set()
            if old is not None and old.is_alive:
                await old.drain(self._options.drain_timeout_s)
            self._answered_at = time.monotonic()
            _log.info("scoring variant=%s version=%d pid=%d", record.running.variant, record.running.version, fresh.pid)

    async def stop(self) -> None:
        """End the runner; nothing should run any more."""
        async with self._changing:
            self._wanted = None
            if self._runner is not None and self._runner.is_alive:
                await self._runner.drain(self._options.drain_timeout_s)
            self._runner = None
            self.scoring = None

    async def open_reception(self) -> None:
        """Answer "no model yet" at the scoring address while nothing has run."""
        if self._wanted is None:
            await self._reception.open()

    async def watch(self) -> None:
        """Restart what ends, for ever."""
        pause_s = FIRST_PAUSE_S
        while True:
            runner, wanted = self._runner, self._wanted
            self._changed.clear()
            if wanted is None or (runner is not None and runner.is_alive and runner.record == wanted):
                started = time.monotonic()
                if await self._end_of(runner) is None:
                    continue
                if time.monotonic() - started > LONGEST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            await self._start_again()

    async def probe(self) -> None:
        """Ask the runner for its statistics; one that has not answered for too long is ended, and `watch` starts it again."""
        async with self._changing:
            runner = self._runner
            if runner is None or not runner.is_alive:
                self._begin_silence()
                return
            statistics = await asyncio.to_thread(_statistics, self._listening.getsockname())
            if statistics is not None:
                self.scoring, self._answered_at = statistics, float("inf")
                return
            self._begin_silence()
            if self.silent_s > HANGS_AFTER_S:
                _log.error("killed runner pid=%d reason=%r", runner.pid, f"silent for {self.silent_s:.0f} s")
                self._answered_at = time.monotonic()
                await runner.kill()

    async def probe_always(self, every_s: float) -> None:
        """Probe now and then, for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.probe()

    def _begin_silence(self) -> None:
        if self._answered_at == float("inf"):
            self._answered_at = time.monotonic()

    async def _end_of(self, runner: Runner | None) -> str | None:
        """Wait until `runner` ends by itself and say how; None when something else is wanted meanwhile."""
        changed = asyncio.create_task(self._changed.wait())
        ended = asyncio.create_task(runner.ended()) if runner is not None else None
        waiting: list[asyncio.Task[Any]] = [changed] if ended is None else [changed, ended]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if runner is None or ended is None or not ended.done() or runner is not self._runner or self._wanted is None:
                return None
            how = ended.result()
            self.crashes += 1
            _log.error("runner_ended variant=%s how=%r crashes=%d", runner.record.running.variant, how, self.crashes)
            return how
        finally:
            for task in waiting:
                task.cancel()

    async def _start_again(self) -> None:
        async with self._changing:
            wanted = self._wanted
            if wanted is None or self.running == wanted:
                return
            try:
                self._runner = await Runner.start(wanted, self._slot_path(wanted), self._listening, self._options)
            except OperationError as failed:
                self.crashes += 1
                _log.error("did not start variant=%s reason=%r", wanted.running.variant, str(failed))
                return
            self._answered_at = time.monotonic()
            _log.info("restarted variant=%s pid=%d", wanted.running.variant, self._runner.pid)


def _statistics(address: tuple[str, int]) -> ScoringStatistics | None:
    """Ask the scoring address itself, so that what a user would meet is what is probed; None when it does not answer well."""
    connection = http.client.HTTPConnection(*address, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/stats", headers={"Connection": "close"})
        return wire.decode(connection.getresponse().read(1 << 20), ScoringStatistics, what="the statistics of the runner")
    except (OSError, http.client.HTTPException, MessageError):
        return None
    finally:
        connection.close()
