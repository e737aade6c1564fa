"""Which requests are under way, which are answered, and which have to be sent again: the link's bookkeeping, without a line.

A request keeps its sequence number when it is repeated, so that a board knows a RUN again. The words of an upload are taken
in order only: a board that missed a frame refuses those behind it, and says how far it is; all of them are then sent anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from accel.npu.link.frames import Request
from edgewright.errors import OperationError

WINDOW = 8
"""A board has room for so many frames."""


class LostProgramError(OperationError):
    """The board does not hold the program any more: it was reset, or had to be."""


class Window:
    """The requests of one exchange; `in_order` when they are the words of an upload."""

    def __init__(self, requests: Sequence[Request], next_sequence: Callable[[], int], *, in_order: bool = False) -> None:
        self.repeated = 0
        """Frames that were sent more than once."""
        self._requests = requests
        self._next_sequence = next_sequence
        self._in_order = in_order
        self._answers: list[bytes | None] = [None] * len(requests)
        self._waiting = deque(range(len(requests)))
        self._under_way: dict[int, int] = {}  # sequence number -> place of the request, in the order of sending

    @property
    def finished(self) -> bool:
        """Whether every request is answered."""
        return not self._waiting and not self._under_way

    def answers(self) -> list[bytes]:
        """Return the words of the answers, in the order of the requests."""
        return [answer for answer in self._answers if answer is not None]

    def to_send(self) -> bytes:
        """Return the frames that the window has room for."""
        frames = []
        while self._waiting and len(self._under_way) < WINDOW:
            place, sequence = self._waiting.popleft(), self._next_sequence()
            self._under_way[sequence] = place
            frames.append(self._requests[place].frame(sequence))
        return b"".join(frames)

    def again(self) -> bytes:
        """Return the frames that are under way once more, with the sequence numbers that they had."""
        self.repeated += len(self._under_way)
        return b"".join(self._requests[place].frame(sequence) for sequence, place in self._under_way.items())

    def take(self, raw: bytes) -> bool:
        """Take a decoded frame; tell whether it was of use.

        Raises:
            LostProgramError: the board has forgotten what it had confirmed.
        """
        place = self._under_way.get(raw[0]) if raw else None
        answer = None if place is None else self._requests[place].answer_in(raw, raw[0])
        if place is None or answer is None:
            return False
        if self._in_order and not self._is_stored(self._requests[place], answer):
            self._go_back()
            return False
        del self._under_way[raw[0]]
        self._answers[place] = answer
        return True

    def _is_stored(self, request: Request, answer: bytes) -> bool:
        """Tell from how far the board says that it is whether it has the words of `request`."""
        reached = int.from_bytes(answer, "little")
        first = next(self._requests[place] for place, known in enumerate(self._answers) if known is None)
        if reached < first.address:
            raise LostProgramError("the NPU was reset in the middle of an upload; upload the program again")
        return reached >= request.address + request.count

    def _go_back(self) -> None:
        """A frame was lost on the way: it and all behind it go again, as new ones."""
        places = sorted(self._under_way.values())
        self.repeated += len(places)
        self._waiting.extendleft(reversed(places))
        self._under_way.clear()
