"""Benchmark jobs of the cloud: run each in a worker while no deployment is in progress.

    take      the job that an acknowledgement of telemetry names, or none, which ends the one in progress
    run       the worker asks for the job, pulls, measures, sends the result and reports (packages/benchmark_job.py)
    give way  to a deployment: the worker is killed, and a later acknowledgement starts it again

The worker runs under the lock that is held while a workload loads a version, so a benchmark and a trial never run side by side.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from edge_agent.backoff import full_jitter_s
from edge_agent.deployment.workloads import Workloads
from edge_agent.settings import Settings
from edge_agent.workers.requests import BenchmarkRequest
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts.connection.benchmark_call import BenchmarkCall

_log = logging.getLogger(__name__)

_WORKER = "edge_agent.packages.benchmark_job"
_POLL_S = 0.1
"""Interval in which a worker in progress is compared with the state of the workloads."""
_REPORT_S = 60.0
_PROGRAM_FAILURES = (Failure.CRASHED, Failure.TIMED_OUT)
"""Failures that the worker could not report."""


class RemoteBenchmarks:
    """The benchmark job of the device, at most one at a time."""

    def __init__(self, state_directory: Path, settings: Settings, workloads: Workloads) -> None:
        self._state_directory = str(state_directory)
        self._settings = settings
        self._workloads = workloads
        self._call: BenchmarkCall | None = None
        self._called = asyncio.Event()
        self._attempt = 0
        self._not_before_s = 0.0

    def take(self, call: BenchmarkCall | None) -> None:
        """Take the job that the cloud named last; None ends the one in progress."""
        if call is None or self._call is None or call.job != self._call.job:
            self._attempt, self._not_before_s = 0, 0.0
        self._call = call
        self._called.set()

    async def run_forever(self) -> None:
        """Run each job that the cloud names, once no deployment is in progress."""
        while True:
            await self._called.wait()
            self._called.clear()
            call = self._call
            is_due = asyncio.get_running_loop().time() >= self._not_before_s
            if call is not None and is_due and self._workloads.are_settled:
                await self._run(call)

    async def _run(self, call: BenchmarkCall) -> None:
        self._workloads.keeps_files = True
        try:
            async with self._workloads.loading:
                result = await self._until_interrupted(call)
                if result is not None and result.failure in _PROGRAM_FAILURES:
                    await self._report_failure(call, f"the benchmark {result.reason}")
        finally:
            self._workloads.keeps_files = False
            for each in self._workloads:  # one of them collects the files
                each.wake_up()
        if result is None:
            _log.info("stopped benchmark job=%d", call.job)
            return
        _log.info("benchmark job=%d outcome=%r", call.job, result.reason)
        pause_s = full_jitter_s(self._attempt, self._settings.retry_base_s, self._settings.retry_cap_s)
        self._attempt += 1
        self._not_before_s = asyncio.get_running_loop().time() + pause_s

    async def _until_interrupted(self, call: BenchmarkCall) -> WorkerResult | None:
        """Return the result of the worker; None if the job ended or a deployment began."""
        settings = self._settings
        request = BenchmarkRequest(
            state_directory=self._state_directory, job=call.job, backend=settings.backend, threads=settings.threads
        )
        worker = asyncio.create_task(run_worker(_WORKER, request, timeout_s=call.budget_s))
        try:
            while not (await asyncio.wait({worker}, timeout=_POLL_S))[0]:
                if self._call is None or self._call.job != call.job or not self._workloads.are_settled:
                    return None
            return worker.result()
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    async def _report_failure(self, call: BenchmarkCall, reason: str) -> None:
        request = BenchmarkRequest(state_directory=self._state_directory, job=call.job, failure=reason)
        await run_worker(_WORKER, request, timeout_s=_REPORT_S)
