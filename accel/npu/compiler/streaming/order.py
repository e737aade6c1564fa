"""Merge the work of the units and the transfers of the DMA into one instruction stream.

The work has a fixed order. A transfer has conditions (its room must be free, what it stores must be there) and a place in the
work where it is needed. So the stream is made by going through the work once: before each step, whatever transfer may go is
issued, the one needed first before the others; and where a step needs a transfer that is not known to be done, a SYNC waits for
exactly that one. A program longer than the program memory fetches its own pages on the way (docs/spec/npu.md, N154).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.model.memory_timing import QUEUE_DEPTH
from accel.npu.model.timing import FETCH_CYCLES, Clock
from accel.npu.model.trace import extra_turns
from accel.npu.profile import NpuProfile

NEVER = 1 << 60
SPARE_CYCLES = 1000
"""For so long the memory has work beyond what the step in hand takes."""


class Stream(enum.Enum):
    """Transfers of one stream are issued in their order; between streams the one that is needed first goes first."""

    INPUTS = "inputs"
    SLOTS = "slots"
    WEIGHTS = "weights"
    PARAMETERS = "parameters"
    STORES = "stores"


@dataclass(slots=True, eq=False)
class Transfer:
    """A DMA, and when it may be issued: the array is done with a task, a pass has begun, a VEC is done; behind `after`.

    Tasks, passes and VECs are counted from 0 over the whole program; -1 stands for none.
    """

    instruction: isa.Dma
    stream: Stream
    after_task: int = -1
    after_pass: int = -1
    after_vector: int = -1
    after: Transfer | None = None
    needed_by: int = NEVER
    number: int = -1
    """The how-manieth transfer it was, once issued."""


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction of a unit, or a REPEAT with its two, and the transfers and the VEC that must be done before."""

    instructions: tuple[isa.Instruction, ...]
    needs: tuple[Transfer, ...] = ()
    after_vector: int = -1


class Order:
    """The instruction stream under construction."""

    def __init__(self, transfers: Iterable[Transfer], profile: NpuProfile, *, pages_at: int | None) -> None:
        self.instructions: list[isa.Instruction] = []
        self._queues: dict[Stream, deque[Transfer]] = {stream: deque() for stream in Stream}
        for transfer in transfers:
            self._queues[transfer.stream].append(transfer)
        self._page = profile.instructions // 2
        self._pages_at = pages_at
        """Where in the external memory the pages of the program will lie; None where it fits the program memory."""
        self._page_number = -1
        self._tasks = self._passes = 0
        self._vectors_begun = self._vectors_done = 0
        self._issued = self._done = 0
        self._extra = 0
        self._clock = Clock(profile)
        self._positions = 0

    @property
    def executed(self) -> int:
        """How many instructions are executed until here, repeated ones counted as often as they are done."""
        return len(self.instructions) + self._extra

    @property
    def cycles(self) -> int:
        """What it takes until here."""
        return self._clock.at + 1

    def take(self, step: Step) -> None:
        """Issue what may go, wait for what the step needs, then the step itself."""
        self._issue_what_may_go(step)
        for transfer in step.needs:
            while transfer.number < 0:
                self._force(self._queues[transfer.stream][0])
        if any(transfer.number >= self._done for transfer in step.needs):
            self._issue_what_may_go(step)
            self._wait_for(max(transfer.number for transfer in step.needs))
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
            self._vectors_done = self._vectors_begun  # it waited for the one before
            self._vectors_begun += 1
        elif isinstance(first, isa.Residual):
            self._vectors_done = self._vectors_begun

    def finish(self) -> None:
        """Store what is left, and stop in the second half of the memory, so that the first half can be fetched again."""
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

    def _issue_what_may_go(self, step: Step) -> None:
        """Keep the memory busy until the next step, but no longer: what becomes ready until then may be more urgent."""
        memory = self._clock.memory
        needed = [memory.done[transfer.number] for transfer in step.needs if transfer.number >= 0]
        end = max(self._clock.at, self._clock.at_rest, *needed) + self._duration(step) + SPARE_CYCLES
        while memory.at_rest < end and memory.room_at() <= self._clock.at + FETCH_CYCLES:
            ready = [queue[0] for queue in self._queues.values() if queue and self._may_go(queue[0])]
            if not ready:
                return
            self._issue(min(ready, key=lambda transfer: -1 if transfer.stream is Stream.STORES else transfer.needed_by))

    def _duration(self, step: Step) -> int:
        """Return how long the array is busy with a step, more or less."""
        last = step.instructions[-1]
        if not isinstance(last, isa.ArrayPass):
            return 0
        first = step.instructions[0]
        turns = first.count if isinstance(first, isa.Repeat) else 1
        return turns * self._positions * last.kernel_rows * last.kernel_columns

    def _may_go(self, transfer: Transfer) -> bool:
        is_behind = transfer.after is None or transfer.after.number >= 0
        units = transfer.after_task < self._tasks and transfer.after_pass < self._passes
        return units and transfer.after_vector < self._vectors_done and is_behind

    def _issue(self, transfer: Transfer) -> None:
        self._queues[transfer.stream].popleft()
        self._put(transfer.instruction)
        transfer.number = self._issued
        self._count_issue()

    def _count_issue(self) -> None:
        self._issued += 1
        self._done = max(self._done, self._issued - QUEUE_DEPTH)

    def _force(self, transfer: Transfer) -> None:
        """Issue a transfer that had to wait until now, with whatever stands before it."""
        while transfer.after is not None and transfer.after.number < 0:
            self._force(self._queues[transfer.after.stream][0])
        if transfer.after_vector >= self._vectors_done:
            self._wait_for_vectors()
        assert self._may_go(transfer), "a transfer is needed before its room is free"
        self._issue(transfer)

    def _wait_for_vectors(self) -> None:
        if self._vectors_done < self._vectors_begun:
            self._put(isa.Sync(vector=1))
            self._vectors_done = self._vectors_begun

    def _wait_for(self, number: int) -> None:
        if number >= self._done:
            self._put(isa.Sync(transfers=1, pending=self._issued - 1 - number))
            self._done = max(self._done, number + 1)

    # -- pages --------------------------------------------------------------------------------------------------------

    def _put(self, *instructions: isa.Instruction) -> None:
        """Append instructions that must lie in one page."""
        if self._pages_at is not None:
            self._turn_pages()
            while len(self.instructions) % self._page + len(instructions) > self._page - 1:
                self._append(isa.Sync())
                self._turn_pages()
        self._append(*instructions)

    def _append(self, *instructions: isa.Instruction) -> None:
        self.instructions += instructions
        self._extra += extra_turns(instructions[0])
        self._clock.issue(instructions[0])
        turns = instructions[0].count if isinstance(instructions[0], isa.Repeat) else 1
        for instruction in instructions[1:] * turns:  # addresses, which change from turn to turn, take no time
            self._clock.issue(instruction)

    def _turn_pages(self) -> None:
        """At the end of a page the next one must be there; at the beginning the one behind it is fetched."""
        if len(self.instructions) % self._page == self._page - 1 and self._page_number >= self._done:
            pending = self._issued - 1 - self._page_number
            self._append(isa.Sync(transfers=1, pending=pending))
            self._done = max(self._done, self._page_number + 1)
        if len(self.instructions) % self._page == 0:
            following = len(self.instructions) // self._page + 1
            self._append(self._fetch(following, following % 2))
            self._page_number = self._issued
            self._count_issue()

    def _fetch(self, page: int, half: int) -> isa.Dma:
        words = self._page * isa.WORD_BITS // 32
        assert self._pages_at is not None
        return isa.Dma(region=isa.Region.PROGRAM, external=self._pages_at + page * words, local=half * words, words=words)


@dataclass(frozen=True, slots=True)
class Ordered:
    """The instructions, when each step and the HALT is executed, whether they are pages to be fetched, and all cycles."""

    instructions: list[isa.Instruction]
    begins: list[int]
    is_paged: bool
    cycles: int


def in_order(steps: Sequence[Step], transfers: Sequence[Transfer], profile: NpuProfile, *, pages_at: int) -> Ordered:
    """Return the instruction stream, in pages where it does not fit the program memory."""
    if len(steps) + len(transfers) < profile.instructions:
        ordered = _ordered(steps, transfers, profile, None)
        if len(ordered.instructions) <= profile.instructions:
            return ordered
        for transfer in transfers:
            transfer.number = -1
    return _ordered(steps, transfers, profile, pages_at)


def _ordered(steps: Sequence[Step], transfers: Sequence[Transfer], profile: NpuProfile, pages_at: int | None) -> Ordered:
    order = Order(transfers, profile, pages_at=pages_at)
    begins = []
    for step in steps:
        begins.append(order.executed)
        order.take(step)
    order.finish()
    instructions, is_paged = order.instructions, pages_at is not None
    missing = -len(instructions) % (profile.instructions // 2) if is_paged else 0
    return Ordered([*instructions, *[isa.Halt()] * missing], [*begins, order.executed - 1], is_paged, order.cycles)


def first_needs(steps: Sequence[Step]) -> None:
    """Tell every transfer which step needs it first."""
    for place, step in enumerate(steps):
        for transfer in step.needs:
            transfer.needed_by = min(transfer.needed_by, place)
