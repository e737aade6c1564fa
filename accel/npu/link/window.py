"""Track the requests of an exchange: waiting, in flight, or answered. This module does no input or output.

A request keeps its sequence number when it is resent, so that a board recognizes a repeated RUN. A board accepts the words of
an upload in order only: if it missed a frame, it rejects the later ones and answers with the number of words that it has. All
rejected frames are then sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from accel.npu.link.frames import Request
from edgewright.errors import OperationError

WINDOW = 8
"""Number of frames that a board can buffer."""


class LostProgramError(OperationError):
    """The board no longer holds the program, because it was reset."""


class Window:
    """Sliding window over the requests of one exchange; `in_order` if they are the words of an upload."""

    def __init__(self, requests: Sequence[Request], next_sequence: Callable[[], int], *, in_order: bool = False) -> None:
        self.repeated = 0
        """Frames that were sent more than once."""
        self._requests = requests
        self._next_sequence = next_sequence
        self._in_order = in_order
        self._answers: list[bytes | None] = [None] * len(requests)
        self._waiting = deque(range(len(requests)))
        self._in_flight: dict[int, int] = {}  # sequence number -> index of the request, in the order of sending

    @property
    def finished(self) -> bool:
        """True if every request is answered."""
        return not self._waiting and not self._in_flight

    def answers(self) -> list[bytes]:
        """Return the words of the responses, in the order of the requests."""
        return [answer for answer in self._answers if answer is not None]

    def to_send(self) -> bytes:
        """Return the waiting frames that fit the window, and mark them as in flight."""
        frames = []
        while self._waiting and len(self._in_flight) < WINDOW:
            index, sequence = self._waiting.popleft(), self._next_sequence()
            self._in_flight[sequence] = index
            frames.append(self._requests[index].frame(sequence))
        return b"".join(frames)

    def to_resend(self) -> bytes:
        """Return the frames in flight again, with the same sequence numbers."""
        self.repeated += len(self._in_flight)
        return b"".join(self._requests[index].frame(sequence) for sequence, index in self._in_flight.items())

    def accept(self, raw: bytes) -> bool:
        """Process a decoded frame; return whether it answers a request in flight.

        Raises:
            LostProgramError: the board lost words that it had confirmed.
        """
        index = self._in_flight.get(raw[0]) if raw else None
        answer = None if index is None else self._requests[index].answer_in(raw, raw[0])
        if index is None or answer is None:
            return False
        if self._in_order and not self._is_stored(self._requests[index], answer):
            self._requeue()
            return False
        del self._in_flight[raw[0]]
        self._answers[index] = answer
        return True

    def _is_stored(self, request: Request, answer: bytes) -> bool:
        """Return whether the board has the words of `request`: its response is the number of words that it has."""
        stored = int.from_bytes(answer, "little")
        first = next(self._requests[index] for index, confirmed in enumerate(self._answers) if confirmed is None)
        if stored < first.address:
            raise LostProgramError("the NPU was reset in the middle of an upload; upload the program again")
        return stored >= request.address + request.count

    def _requeue(self) -> None:
        """Queue all frames in flight again with new sequence numbers: one of them was lost."""
        indexes = sorted(self._in_flight.values())
        self.repeated += len(indexes)
        self._waiting.extendleft(reversed(indexes))
        self._in_flight.clear()
