"""Cycle-exact timing of transfers: the DMA engine and the SDRAM controller (docs/spec/npu.md, N160-N164).

The controller closes the row after every burst, so the time of a burst depends only on its length. Refreshes are due at fixed
times and have priority over requests. A transfer never waits for the array or the vector unit, so the issue times determine the
whole schedule of the memory.
"""

from __future__ import annotations

from accel.npu.isa import Dma

PAGE_WORDS = 256
QUEUE_DEPTH = 16
REFRESH = 7
"""Cycles of one refresh."""
AHEAD_OF_STORE = 8
"""Cycles to read the first vectors of a stored run from the activation memory."""
LAST = 4
"""Cycles from the end of the last burst until its last word is written and the next transfer may begin."""


def burst_cycles(words: int, *, store: bool) -> int:
    """Return the cycles from accepting a request to the end of the burst: open the row, two halfwords per word, close it."""
    if store:
        return 2 * words + 5
    return max(2 * words, 3) + 7


class MemoryClock:
    """Completion times of the transfers issued so far."""

    def __init__(self, refresh_cycles: int) -> None:
        self.done: list[int] = []
        """Per transfer, the first cycle in which it no longer counts as outstanding."""
        self.busy_cycles = 0
        self._refresh_cycles = refresh_cycles
        self._next_refresh = 0
        self._controller_free = 0
        self._engine_free = 0

    def room_at(self) -> int:
        """Return the first cycle in which the queue has a free entry."""
        return self.done[-QUEUE_DEPTH] if len(self.done) >= QUEUE_DEPTH else 0

    def pending_at(self, pending: int) -> int:
        """Return the first cycle in which at most `pending` transfers are outstanding."""
        return self.done[-pending - 1] if len(self.done) > pending else 0

    @property
    def at_rest(self) -> int:
        """The first cycle in which every transfer is complete."""
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
        """Transfer one run, page by page; return the cycle in which the next one may begin."""
        now += AHEAD_OF_STORE if store else 0
        while words:
            burst = min(words, PAGE_WORDS - address % PAGE_WORDS)
            now = self._accepted_at(now) + burst_cycles(burst, store=store)
            self._controller_free = now
            now += 1
            address += burst
            words -= burst
        return now

    def _accepted_at(self, requested: int) -> int:
        """Return the cycle in which the controller accepts a request, after all refreshes that are due."""
        while self._next_refresh <= max(requested, self._controller_free):
            self._controller_free = max(self._next_refresh, self._controller_free) + REFRESH
            self._next_refresh += self._refresh_cycles
        return max(requested, self._controller_free)
