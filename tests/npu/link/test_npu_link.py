"""The serial link under faults: lost frames, interrupted uploads, resets, another speed, a pulled cable."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from accel.npu import isa
from accel.npu.link.protocol import DROPPED_REGISTER, LINK, SPEED_REGISTER, Link, UploadState
from accel.npu.link.window import WINDOW, LostProgramError
from accel.npu.machines.board import Board
from accel.npu.machines.port import memories_of
from accel.npu.machines.simulated_board import running_board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import find_profile
from accel.npu.program import NpuProgram
from accel.npu.registers import ACTIVATIONS, PROGRAM, REGISTERS, STATUS, WEIGHTS, Words
from edgewright.errors import BadInputError, OperationError, ProfileError, UnreachableError
from tests.support.faulty_serial import cut_after, faulty_line, noisy, unchanged
from tests.support.random_programs import make_program, memory_after, random_program

PROFILE = find_profile("npu-sim-4")
WORDS = np.random.default_rng(5).integers(0, 1 << 32, 1000, dtype=np.uint32)


@pytest.fixture(scope="module")
def running(require: Callable[[str], Path]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    require("verilator")
    with running_board(PROFILE) as started:
        yield started


@pytest.fixture
def device(running: tuple[str, subprocess.Popen[str]]) -> str:
    """A board without a program."""
    with Link(running[0], answer_s=0.2) as link:  # the previous test may have left it at another speed
        link.reset()
    return running[0]


def test_n107_an_upload_resumes_after_a_pulled_cable(device: str) -> None:
    pulled = pytest.raises(UnreachableError, match=r"did not respond 8 times in a row; check the cable")
    with faulty_line(device, cut_after(2500), unchanged) as path, Link(path, answer_s=0.1) as link, pulled:
        link.upload({WEIGHTS: WORDS})
    seen: list[int] = []
    with Link(device) as link:
        before = link.upload_state(WEIGHTS)
        link.upload({WEIGHTS: WORDS}, lambda uploaded, _: seen.append(uploaded))
        after = link.upload_state(WEIGHTS)
    assert 0 < before.words < len(WORDS)
    assert seen[0] == before.words
    assert after.words == len(WORDS)


def test_n107_an_upload_of_other_words_starts_from_the_beginning(device: str) -> None:
    with Link(device) as link:
        link.upload({WEIGHTS: WORDS})
        other = WORDS[::-1].copy()
        seen: list[int] = []
        link.upload({WEIGHTS: other}, lambda uploaded, _: seen.append(uploaded))
        assert seen[0] == 0
        assert link.upload_state(WEIGHTS).words == len(other)


def test_n107_the_checksum_is_the_crc32_of_the_words(device: str) -> None:
    """The check value of CRC-32 in the catalogue of parametrised CRC algorithms is 0xCBF43926, for the digits 1 to 9."""
    with Link(device) as link:
        link.upload({WEIGHTS: np.frombuffer(b"1234567890123456", np.uint32)[:2]})
        assert link.upload_state(WEIGHTS) == UploadState(2, 0x9AE0DAAF)


def test_n107_words_out_of_order_are_rejected(device: str) -> None:
    with Link(device) as link:
        link.write(WEIGHTS, 100, WORDS[:10])
        assert link.upload_state(WEIGHTS).words == 0
        link.write(WEIGHTS, 0, WORDS[:10])
        link.write(WEIGHTS, 0, WORDS[:10])
        assert link.upload_state(WEIGHTS).words == 10


def halting() -> dict[int, Words]:
    return {PROGRAM: isa.encode([isa.Halt()]).reshape(-1)}


def test_n108_an_incomplete_program_is_never_run(device: str) -> None:
    whole = {**halting(), WEIGHTS: WORDS}
    with Link(device) as link:
        link.upload(whole)
        link.start()
        link.wait_until_idle()
    with Link(device) as link:
        link.reset()
        link.upload({**halting(), WEIGHTS: WORDS[:-1]})
        link._program = list(whole.items())
        with pytest.raises(LostProgramError, match=r"does not hold the complete program; upload it again$"):
            link.start()
        assert int(link.read(REGISTERS, STATUS, 1)[0]) == 0


def test_n108_neither_a_run_without_a_program_nor_a_write_to_the_start_register_starts_the_core(device: str) -> None:
    with Link(device) as link:
        link.upload(halting())
        link.write(REGISTERS, 4, np.ones(1, np.uint32))
        assert int(link.read(REGISTERS, STATUS, 1)[0]) == 0
        link._program = []
        with pytest.raises(LostProgramError):
            link.start()
        assert int(link.read(REGISTERS, STATUS, 1)[0]) == 0


def test_n109_a_board_buffers_a_window_of_frames_without_dropping_any(device: str) -> None:
    with Link(device) as link:
        before = int(link.read(LINK, DROPPED_REGISTER, 1)[0])
        link.write(ACTIVATIONS, 0, WORDS)
        assert len(WORDS) > WINDOW * 56
        np.testing.assert_array_equal(link.read(ACTIVATIONS, 0, len(WORDS)), WORDS)
        assert int(link.read(LINK, DROPPED_REGISTER, 1)[0]) == before


@pytest.mark.parametrize("seed", range(4))
def test_n104_n109_a_noisy_line_changes_only_the_time(device: str, seed: int) -> None:
    program, memory = random_program(seed, PROFILE)
    with faulty_line(device, noisy(seed, 0.001), noisy(seed + 100, 0.001)) as path:
        board = Board(PROFILE, path, answer_s=0.1)
        result = memory_after(board, program, memory)
        board.close()
    np.testing.assert_array_equal(result, memory_after(FunctionalModel(PROFILE), program, memory))
    assert board.link.repeated > 0


def long_program() -> NpuProgram:
    """About 4 million cycles: seconds of simulation, and the same result however often it is started."""
    shape = isa.Shape(height=16, width=16, rows=16, columns=16, row_pitch=16)
    sums = isa.Pool(base=0, kernel_rows=63, kernel_columns=63, tap_row_pitch=0)
    finish = [isa.Sync(array=1), isa.Vec(accumulator=0, count=256, destination=0, parameters=0)]
    parameters = np.broadcast_to(np.array([0, 1 << 30, 40], np.int32), (PROFILE.lane_groups, PROFILE.vector_lanes, 3))
    return make_program(PROFILE, [shape, *[sums] * 4, *finish], np.zeros((0, 4), np.int8), parameters)


def test_n110_a_core_that_does_not_finish_is_reset_and_the_board_stays_usable(device: str) -> None:
    board = Board(PROFILE, device, run_s=0.2)
    with pytest.raises(LostProgramError, match=r"must finish within 0\.2 s, but it did not: reset$"):
        memory_after(board, long_program(), np.ones((256, 4), np.int8))
    program, memory = random_program(3, PROFILE)
    np.testing.assert_array_equal(memory_after(board, program, memory), memory_after(FunctionalModel(PROFILE), program, memory))
    board.close()


def test_n111_a_board_that_is_reset_during_a_run_gets_its_program_again(
    running: tuple[str, subprocess.Popen[str]], device: str
) -> None:
    board, program, memory = Board(PROFILE, device), long_program(), np.ones((256, 4), np.int8)
    pressed = threading.Event()
    wait = board.link.wait_until_idle

    def press_the_button_once() -> None:
        if not pressed.is_set():
            pressed.set()
            os.kill(running[1].pid, signal.SIGUSR1)
        wait()

    board.link.wait_until_idle = press_the_button_once  # type: ignore[method-assign]
    result = memory_after(board, program, memory)
    board.close()
    assert pressed.is_set()
    np.testing.assert_array_equal(result, memory_after(FunctionalModel(PROFILE), program, memory))


def test_n111_a_board_that_is_reset_during_an_upload_is_detected(running: tuple[str, subprocess.Popen[str]], device: str) -> None:
    def press_the_button_at_the_second_step(uploaded: int, _: int) -> None:
        if uploaded:
            os.kill(running[1].pid, signal.SIGUSR1)

    with Link(device, answer_s=0.2) as link, pytest.raises(OperationError, match=r"upload the program again|upload it again"):
        link.upload({WEIGHTS: np.tile(WORDS, 16)}, press_the_button_at_the_second_step)


def test_n112_host_and_board_switch_to_another_speed(device: str) -> None:
    board = Board(PROFILE, device, baud=1_000_000)
    assert int(board.port.read(LINK, SPEED_REGISTER, 1)[0]) == 12
    board.port.write(ACTIVATIONS, 0, WORDS)
    np.testing.assert_array_equal(board.port.read(ACTIVATIONS, 0, len(WORDS)), WORDS)
    board.close()


def test_n112_closing_a_board_returns_it_to_its_first_speed(device: str) -> None:
    first = Board(PROFILE, device, baud=115_200)
    dropped = int(first.port.read(LINK, DROPPED_REGISTER, 1)[0])
    first.close()
    board = Board(PROFILE, device)
    speed, dropped_since = (int(board.port.read(LINK, register, 1)[0]) for register in (SPEED_REGISTER, DROPPED_REGISTER))
    board.close()
    assert speed == 4
    assert dropped_since - dropped <= 1  # a frame is sent again where the machine is too busy to answer in time


@pytest.mark.parametrize("baud", [1, 150])
def test_n112_a_speed_that_the_boards_counter_cannot_hold_is_refused(device: str, baud: int) -> None:
    with pytest.raises(BadInputError, match=rf"divided by 4 to 65535, within 2%, but {baud} is not; try 183$"):
        Board(PROFILE, device, baud=baud)


@pytest.mark.parametrize("baud", [1_000_000, 115_200])
def test_n112_a_board_left_at_another_speed_returns_to_its_first_one(device: str, baud: int) -> None:
    killed = Board(PROFILE, device, baud=baud)
    vars(killed.link)["_line"].close()
    board = Board(PROFILE, device, answer_s=0.2)
    assert int(board.port.read(LINK, SPEED_REGISTER, 1)[0]) == 4
    board.close()


def test_n112_a_speed_that_does_not_divide_the_clock_is_refused(device: str) -> None:
    with pytest.raises(
        BadInputError, match=re.escape("the baud rate must be the board's 12 MHz divided by 4 to 65535, within 2%")
    ):
        Board(PROFILE, device, baud=4_000_000)


def test_n113_the_registers_of_the_link_hold_protocol_and_speed(device: str) -> None:
    with Link(device) as link:
        protocol, current, _, first = map(int, link.read(LINK, 0, 4))
    assert protocol.to_bytes(4, "big") == b"EWL\x02"
    assert (current, first) == (4, 4)


def test_a_board_with_another_version_of_the_link_protocol_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.npu.link.protocol.PROTOCOL", 0x45574C03)
    with pytest.raises(ProfileError, match=r"must use version 3 of the link protocol, but it uses 2"):
        Board(PROFILE, device)


def test_the_memories_of_a_program_are_its_instructions_weights_and_parameters() -> None:
    program, _ = random_program(0, PROFILE)
    memories = memories_of(program)
    assert {region: len(words) for region, words in memories.items()} == {
        1: 4 * len(program.instructions),
        2: len(program.weights) * PROFILE.columns // 4,
        4: len(program.parameters) * PROFILE.vector_lanes * 4,
    }
