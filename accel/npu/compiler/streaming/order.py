"""Merge the steps of the units and the transfers of the DMA into one instruction stream.

The steps have a fixed order. A transfer has conditions (its destination is free, its source is written) and a first step that
needs it. The stream is built in one pass over the steps. Before each step, the transfers whose conditions hold are issued, in
order of need. If a step needs a transfer that may be incomplete, a SYNC waits for that transfer. A program longer than the
program memory fetches its pages while it runs (docs/spec/npu.md, N154).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.model.memory_timing import QUEUE_DEPTH
from accel.npu.model.timing import FETCH_CYCLES, Clock
from accel.npu.model.trace import extra_executions
from accel.npu.profile import NpuProfile

NEVER = 1 << 60
SPARE_CYCLES = 1000
"""Cycles of transfers that are queued in addition to the duration of the current step."""


class Stream(enum.Enum):
    """In-order queue of transfers; among the queues, the transfer that is needed first is issued first."""

    INPUTS = "inputs"
    SLOTS = "slots"
    WEIGHTS = "weights"
    PARAMETERS = "parameters"
    STORES = "stores"


@dataclass(slots=True, eq=False)
class Transfer:
    """A DMA and its conditions: a task is complete, a pass has begun, a VEC is complete, the transfer `after` is issued.

    Tasks, passes and VECs are numbered from 0 over the whole program; -1 means no condition.
    """

    instruction: isa.Dma
    stream: Stream
    after_task: int = -1
    after_pass: int = -1
    after_vector: int = -1
    after: Transfer | None = None
    needed_by: int = NEVER
    """The index of the first step that needs it."""
    issue_index: int = -1
    """The position among the issued transfers; -1 before it is issued."""


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction, or a REPEAT with its two instructions, and the transfers and the VEC that must be complete before it."""

    instructions: tuple[isa.Instruction, ...]
    needs: tuple[Transfer, ...] = ()
    after_vector: int = -1


class Order:
    """Builder of the instruction stream."""

    def __init__(self, transfers: Iterable[Transfer], profile: NpuProfile, *, pages_at: int | None) -> None:
        self.instructions: list[isa.Instruction] = []
        self._queues: dict[Stream, deque[Transfer]] = {stream: deque() for stream in Stream}
        for transfer in transfers:
            self._queues[transfer.stream].append(transfer)
        self._page = profile.instructions // 2
        self._pages_at = pages_at
        """The address of the program's pages in external memory; None if the program fits the program memory."""
        self._page_index = -1
        """The issue index of the last fetch of a page."""
        self._tasks = self._passes = 0
        self._vectors_begun = self._vectors_done = 0
        self._issued = self._done = 0
        self._extra = 0
        self._clock = Clock(profile)
        self._positions = 0

    @property
    def executed(self) -> int:
        """Number of instructions executed so far, including the repetitions of REPEAT."""
        return len(self.instructions) + self._extra

    @property
    def cycles(self) -> int:
        """Cycles of the instructions so far."""
        return self._clock.at + 1

    def add(self, step: Step) -> None:
        """Issue the transfers that are ready, wait for those that the step needs, and append the step."""
        self._issue_ready(step)
        for transfer in step.needs:
            while transfer.issue_index < 0:
                self._force(self._queues[transfer.stream][0])
        if any(transfer.issue_index >= self._done for transfer in step.needs):
            self._issue_ready(step)
            self._wait_for(max(transfer.issue_index for transfer in step.needs))
        if step.after_vector >= self._vectors_done:
            self._wait_for_vectors()
        self._put(*step.instructions)
        first = step.instructions[0]
        if isinstance(first, isa.Shape):
            self._positions = first.rows * first.columns
        elif isinstance(first, isa.ArrayPass | isa.Repeat):
            self._passes += first.count if isinstance(first, isa.Repeat) else 1
        elif isinstance(first, isa.Sync):
            self._tasks += 1
        elif isinstance(first, isa.Vec):
            self._vectors_done = self._vectors_begun  # VEC waits for the previous one
            self._vectors_begun += 1
        elif isinstance(first, isa.Residual):
            self._vectors_done = self._vectors_begun

    def finish(self) -> None:
        """Issue the remaining stores, and halt in the second half of the memory, so that the first half can be fetched again."""
        self._wait_for_vectors()
        while self._queues[Stream.STORES]:
            self._issue(self._queues[Stream.STORES][0])
        if self._pages_at is None:
            self._append(isa.Halt())
            return
        while len(self.instructions) % (2 * self._page) < self._page:
            self._put(isa.Sync())
        self._put(isa.Halt())
        last = (len(self.instructions) - 1) // self._page * self._page
        self.instructions[last] = self._fetch(0, (last // self._page + 1) % 2)

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _issue_ready(self, step: Step) -> None:
        """Issue transfers that are ready, but only enough to keep the memory busy: more urgent ones may become ready later."""
        memory = self._clock.memory
        needed = [memory.done[transfer.issue_index] for transfer in step.needs if transfer.issue_index >= 0]
        end = max(self._clock.at, self._clock.at_rest, *needed) + self._duration(step) + SPARE_CYCLES
        while memory.at_rest < end and memory.room_at() <= self._clock.at + FETCH_CYCLES:
            ready = [queue[0] for queue in self._queues.values() if queue and self._is_ready(queue[0])]
            if not ready:
                return
            self._issue(min(ready, key=lambda transfer: -1 if transfer.stream is Stream.STORES else transfer.needed_by))

    def _duration(self, step: Step) -> int:
        """Return an estimate of the array cycles of a step."""
        last = step.instructions[-1]
        if not isinstance(last, isa.ArrayPass):
            return 0
        first = step.instructions[0]
        repetitions = first.count if isinstance(first, isa.Repeat) else 1
        return repetitions * self._positions * last.kernel_rows * last.kernel_columns

    def _is_ready(self, transfer: Transfer) -> bool:
        is_after = transfer.after is None or transfer.after.issue_index >= 0
        array_is_done = transfer.after_task < self._tasks and transfer.after_pass < self._passes
        return array_is_done and transfer.after_vector < self._vectors_done and is_after

    def _issue(self, transfer: Transfer) -> None:
        self._queues[transfer.stream].popleft()
        self._put(transfer.instruction)
        transfer.issue_index = self._issued
        self._count_issue()

    def _count_issue(self) -> None:
        self._issued += 1
        self._done = max(self._done, self._issued - QUEUE_DEPTH)

    def _force(self, transfer: Transfer) -> None:
        """Issue a transfer that the next step needs, after the transfers that it depends on."""
        while transfer.after is not None and transfer.after.issue_index < 0:
            self._force(self._queues[transfer.after.stream][0])
        if transfer.after_vector >= self._vectors_done:
            self._wait_for_vectors()
        assert self._is_ready(transfer), "a transfer is needed before its destination is free"
        self._issue(transfer)

    def _wait_for_vectors(self) -> None:
        if self._vectors_done < self._vectors_begun:
            self._put(isa.Sync(vector=1))
            self._vectors_done = self._vectors_begun

    def _wait_for(self, issue_index: int) -> None:
        if issue_index >= self._done:
            self._put(isa.Sync(transfers=1, pending=self._issued - 1 - issue_index))
            self._done = max(self._done, issue_index + 1)

    # -- pages --------------------------------------------------------------------------------------------------------

    def _put(self, *instructions: isa.Instruction) -> None:
        """Append instructions to one page; fill up the current page if they do not fit."""
        if self._pages_at is not None:
            self._fetch_pages()
            while len(self.instructions) % self._page + len(instructions) > self._page - 1:
                self._append(isa.Sync())
                self._fetch_pages()
        self._append(*instructions)

    def _append(self, *instructions: isa.Instruction) -> None:
        self.instructions += instructions
        self._extra += extra_executions(instructions[0])
        self._clock.issue(instructions[0])
        repetitions = instructions[0].count if isinstance(instructions[0], isa.Repeat) else 1
        for instruction in instructions[1:] * repetitions:  # the addresses of repetitions do not affect the timing
            self._clock.issue(instruction)

    def _fetch_pages(self) -> None:
        """Wait for the next page at the end of a page; fetch the page after it at the beginning of a page."""
        if len(self.instructions) % self._page == self._page - 1 and self._page_index >= self._done:
            pending = self._issued - 1 - self._page_index
            self._append(isa.Sync(transfers=1, pending=pending))
            self._done = max(self._done, self._page_index + 1)
        if len(self.instructions) % self._page == 0:
            following = len(self.instructions) // self._page + 1
            self._append(self._fetch(following, following % 2))
            self._page_index = self._issued
            self._count_issue()

    def _fetch(self, page: int, half: int) -> isa.Dma:
        words = self._page * isa.WORD_BITS // 32
        assert self._pages_at is not None
        return isa.Dma(region=isa.Region.PROGRAM, external=self._pages_at + page * words, local=half * words, words=words)


@dataclass(frozen=True, slots=True)
class Ordered:
    """The ordered instruction stream."""

    instructions: list[isa.Instruction]
    begins: list[int]
    """Per step and for the HALT, the number of instructions executed before it."""
    is_paged: bool
    """True if the instructions are pages that the program fetches."""
    cycles: int


def in_order(steps: Sequence[Step], transfers: Sequence[Transfer], profile: NpuProfile, *, pages_at: int) -> Ordered:
    """Return the instruction stream; split it into pages at word `pages_at` if it does not fit the program memory."""
    if len(steps) + len(transfers) < profile.instructions:
        ordered = _ordered(steps, transfers, profile, None)
        if len(ordered.instructions) <= profile.instructions:
            return ordered
        for transfer in transfers:
            transfer.issue_index = -1
    return _ordered(steps, transfers, profile, pages_at)


def _ordered(steps: Sequence[Step], transfers: Sequence[Transfer], profile: NpuProfile, pages_at: int | None) -> Ordered:
    order = Order(transfers, profile, pages_at=pages_at)
    begins = []
    for step in steps:
        begins.append(order.executed)
        order.add(step)
    order.finish()
    instructions, is_paged = order.instructions, pages_at is not None
    fill = -len(instructions) % (profile.instructions // 2) if is_paged else 0
    return Ordered([*instructions, *[isa.Halt()] * fill], [*begins, order.executed - 1], is_paged, order.cycles)


def set_needed_by(steps: Sequence[Step]) -> None:
    """Set `needed_by` of every transfer to the first step that needs it."""
    for index, step in enumerate(steps):
        for transfer in step.needs:
            transfer.needed_by = min(transfer.needed_by, index)
