"""A simulated board on a serial line: the bits of the functional model, even on a faulty line."""

from __future__ import annotations

import os
import select
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from accel.npu import isa
from accel.npu.link.frames import cobs_decode, cobs_encode
from accel.npu.link.protocol import Link
from accel.npu.machines.board import Board
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import find_profile
from accel.npu.tensors import TensorPlace
from edgewright.cli import main
from edgewright.errors import BadInputError, ConflictError, OperationError, ProfileError, UnreachableError
from tests.support.faulty_serial import faulty_line, noisy, unchanged
from tests.support.random_programs import make_program, memory_after, random_program

PROFILE = find_profile("npu-sim-4")


@pytest.fixture(scope="module")
def device(require: Callable[[str], Path]) -> Iterator[str]:
    require("verilator")
    with simulated_board(PROFILE) as path:
        yield path


@given(st.binary(max_size=253))
def test_n100_cobs_removes_zeros_and_decodes_to_the_same_bytes(raw: bytes) -> None:
    encoded = cobs_encode(raw)
    assert 0 not in encoded
    assert len(encoded) == len(raw) + 1
    assert cobs_decode(encoded) == raw


def test_n101_to_n104_a_request_and_its_answer_are_these_bytes(device: str) -> None:
    request, answer = bytes.fromhex("0903000100000000"), bytes.fromhex("09830001") + b"EWP1"
    sealed = [frame + zlib.crc32(frame).to_bytes(4, "little") for frame in (request, answer)]
    damaged = cobs_encode(sealed[0][:-1] + bytes([sealed[0][-1] ^ 1])) + b"\0"
    with Link(device):  # sets raw mode, and excludes other processes
        line = os.open(device, os.O_RDWR | os.O_NOCTTY)
        os.write(line, damaged + cobs_encode(sealed[0]) + b"\0")
        received = b""
        while not received.endswith(b"\0") and select.select([line], [], [], 10)[0]:
            received += os.read(line, 256)
        os.close(line)
    assert received == cobs_encode(sealed[1]) + b"\0"


def test_a_board_on_a_serial_line_gives_the_bits_of_the_functional_model(device: str) -> None:
    board = Board(PROFILE, device)
    for seed in range(3):
        program, memory = random_program(seed, PROFILE)
        np.testing.assert_array_equal(
            memory_after(board, program, memory), memory_after(FunctionalModel(PROFILE), program, memory)
        )
    board.close()


def test_n104_n105_dropped_doubled_and_corrupted_bytes_change_only_the_time(device: str) -> None:
    program, memory = random_program(7, PROFILE)
    with faulty_line(device, noisy(1), noisy(2)) as path:
        board = Board(PROFILE, path, answer_s=0.2)
        result = memory_after(board, program, memory)
        repeated = board.link.repeated
        board.close()
    np.testing.assert_array_equal(result, memory_after(FunctionalModel(PROFILE), program, memory))
    assert repeated > 0


def test_n106_a_program_whose_start_is_requested_twice_runs_once(device: str) -> None:
    """Every first answer is lost, so the host sends every request twice; the program doubles its own input."""
    answers = iter(range(1 << 30))
    held = b""

    def loses_first_answers(data: bytes) -> bytes:
        nonlocal held
        *frames, held = (held + data).split(b"\0")
        return b"".join(frame + b"\0" for frame in frames if next(answers) % 2)

    shape = isa.Shape(height=1, width=4, rows=1, columns=4, row_pitch=4)
    doubling = [shape, isa.Pool(base=0), isa.Sync(array=1), isa.Vec(accumulator=0, count=4, destination=0, parameters=0)]
    parameters = np.broadcast_to(np.array([0, 1 << 30, 29], np.int32), (PROFILE.lane_groups, PROFILE.vector_lanes, 3))
    program = make_program(PROFILE, doubling, np.zeros((0, 4), np.int8), parameters)
    with faulty_line(device, unchanged, loses_first_answers) as path:
        board = Board(PROFILE, path, answer_s=0.05)
        result = memory_after(board, program, np.full((4, 4), 10, np.int8))
        board.close()
    assert result.tolist() == [[20] * 4] * 4


def test_a_board_of_another_profile_is_refused_before_anything_is_written(device: str) -> None:
    with pytest.raises(ProfileError, match=r"^the NPU must be npu-sim-8 \([0-9a-f]{16}\), but it is [0-9a-f]{16}; choose"):
        Board(find_profile("npu-sim-8"), device)


def test_an_unplugged_board_is_one_line(require: Callable[[str], Path]) -> None:
    require("verilator")
    with simulated_board(PROFILE) as path:
        board = Board(PROFILE, path, answer_s=0.05)
    with pytest.raises(UnreachableError, match=rf"^the NPU at {path} (is gone|did not respond 8 times in a row)"):
        board.port.read(0, 0, 1)
    board.close()


def test_a_device_that_never_answers_is_one_line() -> None:
    near, far = os.openpty()
    path = os.ttyname(far)
    with pytest.raises(UnreachableError, match=rf"^the NPU at {path} did not respond 3 times in a row; check the cable"):
        Board(PROFILE, path, answer_s=0.01)
    os.close(near)
    os.close(far)


def test_a_device_that_echoes_is_not_a_board() -> None:
    near, far = os.openpty()
    path = os.ttyname(far)
    stop = threading.Event()

    def echo() -> None:
        while not stop.is_set():
            if select.select([near], [], [], 0.05)[0]:
                os.write(near, os.read(near, 4096))

    thread = threading.Thread(target=echo)
    thread.start()
    with pytest.raises(UnreachableError, match=rf"^the device at {path} does not respond as an NPU: it is another device"):
        Board(PROFILE, path, answer_s=0.02)
    stop.set()
    thread.join(5)
    os.close(near)
    os.close(far)


def test_a_port_in_use_is_refused(device: str) -> None:
    with Link(device), pytest.raises(ConflictError, match=rf"^{device} is in use by another process; close that one first$"):
        Link(device)


def test_an_absent_port_a_file_and_an_impossible_speed_are_refused(tmp_path: Path) -> None:
    absent, plain = tmp_path / "ttyUSB9", tmp_path / "file"
    plain.touch()
    with pytest.raises(UnreachableError, match=rf"^there is no serial port {absent}; is the board plugged in\?$"):
        Link(str(absent))
    with pytest.raises(BadInputError, match=rf"^{plain} must be a serial port, but it is not one$"):
        Link(str(plain))
    with pytest.raises(BadInputError, match=r"^the baud rate must be one that the system supports .*, not -9$"):
        Link(str(plain), baud=-9)


def test_a_program_that_the_board_cannot_finish_has_an_error_of_its_own(device: str) -> None:
    board = Board(PROFILE, device)
    board.port.upload({1: np.array([15, 0, 0, 0], np.uint32)})
    with pytest.raises(OperationError, match=r"^the NPU stopped at an unknown instruction"):
        board.start()
    board.close()


def test_the_command_line_refuses_an_absent_board_with_exit_3(tmp_path: Path) -> None:
    place = TensorPlace(name="x", channels=4, height=1, width=1, scale=1.0, zero_point=0, base=0)
    program = make_program(PROFILE, [], np.zeros((0, 4), np.int8), np.zeros((0, PROFILE.vector_lanes, 3), np.int32))
    echo = replace(program, description=replace(program.description, inputs=(place,), outputs=(replace(place, name="y"),)))
    (tmp_path / "npu.program").write_bytes(echo.to_bytes())
    np.savez(tmp_path / "samples.npz", x=np.zeros((1, 4, 1, 1), np.float32))
    arguments = ["npu", "run", tmp_path / "npu.program", "--profile", "npu-sim-4", "--samples", tmp_path / "samples.npz"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "/dev/ttyUSB99"])
    assert result.exit_code == 3, result.output
    assert result.stderr.splitlines() == ["edgewright: there is no serial port /dev/ttyUSB99; is the board plugged in?"]
