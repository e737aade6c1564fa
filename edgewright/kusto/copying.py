"""Copy measurements from a cloud to a table of a cluster, from a position on.

One pass visits each device whose number of measurements has changed, reads its queues from the position on, and sends the rows
of several devices in requests of limited size. The position is written after each answered request. A request that the cluster
did not answer is repeated with growing waits.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgewright.contracts.messages import StoredMeasurement
from edgewright.errors import UnreachableError
from edgewright.kusto.cluster import Cluster, UnavailableError
from edgewright.kusto.position import Position
from edgewright.kusto.table import json_lines
from edgewright.sdk import CloudClient

T = TypeVar("T")

MAX_REQUEST_BYTES = 4 * 2**20
"""Bytes of a request before compression. Azure's clients send more than 4 MB by queue instead of by stream."""
MAX_WAIT_S = 60.0


@dataclass(slots=True)
class Retries:
    """Repetition of requests that got no answer: waits of 1, 2, 4 … 60 s, for at most `limit_s` in a row."""

    limit_s: float
    report: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self, request: Callable[[], T]) -> T:
        """Send a request until it is answered, and return its result.

        Raises:
            UnreachableError: it was not answered within the limit.
            EdgewrightError: an answer that a repetition does not change.
        """
        began, wait_s = self.clock(), 1.0
        while True:
            try:
                return request()
            except UnreachableError as error:
                asked_s = error.retry_after_s if isinstance(error, UnavailableError) else None
                pause_s = min(MAX_WAIT_S, max(wait_s, asked_s or 0.0))
                if self.clock() + pause_s - began > self.limit_s:
                    raise
                self.report(f"{error}; next attempt in {pause_s:g} s")
                self.sleep(pause_s)
                wait_s = min(MAX_WAIT_S, 2 * wait_s)


@dataclass(slots=True)
class Copy:
    """A copy from one cloud to one table."""

    cloud: CloudClient
    cluster: Cluster
    position: Position
    path: Path
    retries: Retries
    rows: int = 0
    """Measurements sent since the start."""
    requests: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    """By device: its number of measurements when it was last visited."""
    _waiting: list[StoredMeasurement] = field(default_factory=list)
    _lines: list[bytes] = field(default_factory=list)
    _size: int = 0

    def run_once(self) -> int:
        """Copy everything that the cloud has stored, and return the number of measurements sent.

        Raises:
            UnreachableError: the cloud or the cluster did not answer within the limit of the repetitions.
            EdgewrightError: the cloud or the cluster rejected a request.
        """
        before = self.rows
        changed = self.retries.run(self._changed_devices)
        for device in changed:
            for measurements in self._new_measurements(device):
                self._add(measurements)
        self._send()
        self._counts.update(changed)
        return self.rows - before

    def _changed_devices(self) -> dict[str, int]:
        counts = {each.device: each.telemetry_count for each in self.cloud.devices()}
        return {device: count for device, count in counts.items() if count and self._counts.get(device) != count}

    def _new_measurements(self, device: str) -> Iterator[tuple[StoredMeasurement, ...]]:
        """Yield the measurements of a device after the position, queue by queue."""
        for queue in self.retries.run(partial(self.cloud.telemetry_queues, device)):
            next_sequence = self.position.last(device, queue.queue_id) + 1
            while next_sequence <= queue.last_sequence:
                page = self.retries.run(partial(self.cloud.queued_telemetry, queue, from_sequence=next_sequence))
                if not page:
                    break
                yield page
                next_sequence = page[-1].sequence + 1

    def _add(self, measurements: tuple[StoredMeasurement, ...]) -> None:
        for measurement, line in zip(measurements, json_lines(measurements), strict=True):
            if self._size + len(line) > MAX_REQUEST_BYTES:
                self._send()
            self._waiting.append(measurement)
            self._lines.append(line)
            self._size += len(line)

    def _send(self) -> None:
        """Send what waits, and write the position that this reaches."""
        if not self._waiting:
            return
        request_id = secrets.token_hex(8)
        self.retries.run(partial(self.cluster.ingest, self._lines, request_id))
        for each in self._waiting:
            self.position.advance(each.device, each.queue_id, each.sequence)
        self.position.write(self.path)
        self.rows += len(self._waiting)
        self.requests += 1
        self._waiting, self._lines, self._size = [], [], 0
