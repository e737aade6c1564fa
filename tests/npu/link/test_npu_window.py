"""The window of requests in flight, against a board that follows the specification and a line that loses frames."""

from __future__ import annotations

import zlib
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.npu.link.frames import WORDS_PER_FRAME, Command, Request, cobs_decode
from accel.npu.link.window import WINDOW, LostProgramError, Window

WORDS = np.arange(1, 30 * WORDS_PER_FRAME + 5, dtype="<u4")
WEIGHTS = 2


class FollowingBoard:
    """Board that accepts words of region 2 in order only (N107), and runs once per sequence number (N106)."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.runs = 0
        self._last = 0

    def answer(self, frame: bytes) -> bytes:
        raw = cobs_decode(frame) or b""
        sequence, command, region, words = raw[:4]
        address = int.from_bytes(raw[4:8], "little")
        if command == Command.WRITE and address == len(self.held):
            self.held += np.frombuffer(raw[8:-4], "<u4").tolist()
        if command == Command.RUN and sequence != self._last:
            self.runs += 1
        self._last = sequence
        sealed = bytes([sequence, command | 0x80, region, words]) + len(self.held).to_bytes(4, "little")
        return sealed + zlib.crc32(sealed).to_bytes(4, "little")


def exchange(board: FollowingBoard, window: Window, losses: list[bool]) -> None:
    """Exchange frames and answers over a line that loses those for which `losses` is true, and none after its end."""
    lost = iter(losses)
    frames = window.to_send()
    for _ in range(10_000):
        arrived = [frame for frame in frames.split(b"\0")[:-1] if not next(lost, False)]
        answers = [board.answer(frame) for frame in arrived]
        for answer in answers:
            if not next(lost, False):
                window.accept(answer)
        if window.finished:
            return
        frames = window.to_send() or window.to_resend()
    raise AssertionError("the exchange does not end")


def upload_window(first: int = 0) -> Window:
    numbers = count(first)
    starts = range(0, len(WORDS), WORDS_PER_FRAME)
    chunks = [(at, WORDS[at : at + WORDS_PER_FRAME]) for at in starts]
    requests = [Request(Command.WRITE, WEIGHTS, at, len(chunk), chunk.tobytes()) for at, chunk in chunks]
    return Window(requests, lambda: next(numbers) % 255 + 1, in_order=True)


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 254))
def test_n107_n109_an_upload_arrives_whole_and_in_order_whatever_the_line_loses(losses: list[bool], first: int) -> None:
    board = FollowingBoard()
    exchange(board, upload_window(first), losses)
    assert board.held == WORDS.tolist()


@given(st.lists(st.booleans(), max_size=30))
def test_n106_a_run_is_executed_once_however_often_it_is_repeated(losses: list[bool]) -> None:
    board, numbers = FollowingBoard(), count(7)
    exchange(board, Window([Request(Command.RUN, 0, 0, 2, bytes(8))], lambda: next(numbers)), losses)
    assert board.runs == 1


def test_n109_at_most_a_window_of_requests_is_in_flight() -> None:
    window = upload_window()
    assert window.to_send().count(b"\0") == WINDOW
    assert window.to_send() == b""


def test_n111_a_board_that_lost_confirmed_words_is_detected() -> None:
    board, window = FollowingBoard(), upload_window()
    for frame in window.to_send().split(b"\0")[:-1]:
        window.accept(board.answer(frame))
    board.held.clear()
    (frame, *_) = window.to_send().split(b"\0")
    with pytest.raises(LostProgramError, match=r"^the NPU was reset in the middle of an upload; upload the program again$"):
        window.accept(board.answer(frame))


def test_n105_an_answer_to_another_request_is_ignored() -> None:
    board, window = FollowingBoard(), upload_window()
    (frame, *_) = window.to_send().split(b"\0")
    valid = board.answer(frame)
    other = bytes([valid[0] ^ 0x40]) + valid[1:]
    assert [window.accept(answer) for answer in (b"", other, valid[:-1], valid, valid)] == [False, False, False, True, False]
