"""How long transfers take: the DMA engine and the SDRAM controller, cycle for cycle (docs/spec/npu.md, N160-N164).

The controller closes every row behind a burst, so a burst's time depends on its length alone; refreshes come at fixed times
and go before whatever waits. No transfer ever waits for the array or the vector unit, so the whole schedule of the memory
follows from when each transfer was issued.
"""

from __future__ import annotations

from accel.npu.isa import Dma

PAGE_WORDS = 256
QUEUE_DEPTH = 16
REFRESH = 7
"""Cycles of one refresh."""
AHEAD_OF_STORE = 8
"""Cycles in which the first vectors of a run to store are fetched."""
LAST = 4
"""Cycles from the end of the last burst to the next transfer: by then its last word is in its memory."""


def burst_cycles(words: int, *, store: bool) -> int:
    """From taking a request to the end of the burst: open the row, two halfwords per word, close it."""
    if store:
        return 2 * words + 5
    return max(2 * words, 3) + 7


class MemoryClock:
    """When the transfers issued so far are done."""

    def __init__(self, refresh_cycles: int) -> None:
        self.done: list[int] = []
        """For each transfer, the first cycle in which it no longer counts as outstanding."""
        self.busy_cycles = 0
        self._refresh_cycles = refresh_cycles
        self._next_refresh = 0
        self._controller_free = 0
        self._engine_free = 0

    def room_at(self) -> int:
        """Return the first cycle in which the queue has room."""
        return self.done[-QUEUE_DEPTH] if len(self.done) >= QUEUE_DEPTH else 0

    def pending_at(self, pending: int) -> int:
        """Return the first cycle in which at most `pending` transfers are not done."""
        return self.done[-pending - 1] if len(self.done) > pending else 0

    @property
    def at_rest(self) -> int:
        """The first cycle in which every transfer is done."""
        return self._engine_free

    def issue(self, transfer: Dma, at: int) -> None:
        """Queue a transfer in cycle `at`."""
        begin = max(at + 1, self._engine_free) + 1
        now = begin
        for run in range(transfer.runs):
            address = transfer.external + run * transfer.external_pitch
            now = self._run(address, transfer.words, now, store=bool(transfer.store))
        self._engine_free = now + LAST
        self.busy_cycles += self._engine_free - begin
        self.done.append(self._engine_free)

    def _run(self, address: int, words: int, now: int, *, store: bool) -> int:
        """Move one run, page by page; return when the next one may begin."""
        now += AHEAD_OF_STORE if store else 0
        while words:
            burst = min(words, PAGE_WORDS - address % PAGE_WORDS)
            now = self._taken_at(now) + burst_cycles(burst, store=store)
            self._controller_free = now
            now += 1
            address += burst
            words -= burst
        return now

    def _taken_at(self, requested: int) -> int:
        """Return when the controller takes a request: all refreshes that are due go first."""
        while self._next_refresh <= max(requested, self._controller_free):
            self._controller_free = max(self._next_refresh, self._controller_free) + REFRESH
            self._next_refresh += self._refresh_cycles
        return max(requested, self._controller_free)
