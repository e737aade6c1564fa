"""Failover between board and functional model: no request is lost, and the results have the same bits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from accel.npu.arithmetic import Int8
from accel.npu.link.discovery import SerialPort, candidates, resolve
from accel.npu.machines.board import Board
from accel.npu.machines.failover import Failover
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import find_profile
from edgewright.errors import BadInputError, OperationError
from tests.support.faulty_serial import faulty_line, unchanged
from tests.support.random_programs import memory_after, random_program

PROFILE = find_profile("npu-sim-4")
PROGRAM, MEMORY = random_program(11, PROFILE)
OUTPUTS = [(0, len(MEMORY))]


def expected(first: int) -> Int8:
    memory = MEMORY.copy()
    memory[0, 0] = first
    return memory_after(FunctionalModel(PROFILE), PROGRAM, memory)


def run(machine: Failover, first: int) -> Int8:
    memory = MEMORY.copy()
    memory[0, 0] = first
    result: Int8 = machine.execute({0: memory[None]}, OUTPUTS)[0][0]
    return result


def wait_for(machine: Failover, word: str) -> None:
    deadline = time.monotonic() + 30
    while not machine.describe().startswith(word):
        assert time.monotonic() < deadline, machine.describe()
        machine.changed.wait(0.2)
        machine.changed.clear()


def test_unplugging_a_board_and_plugging_it_in_again_loses_no_request(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    port = tmp_path / "npu"
    with ExitStack() as plugged:
        plugged.enter_context(simulated_board(PROFILE, port))
        machine = Failover(PROFILE, PROGRAM, lambda: [str(port)], probe_s=0.05, answer_s=0.1)
        assert machine.describe() == f"board npu-sim-4 at {port}"
        np.testing.assert_array_equal(run(machine, 1), expected(1))
        plugged.close()
        np.testing.assert_array_equal(run(machine, 2), expected(2))
        assert machine.describe().startswith("functional model of npu-sim-4 on the processor: ")
        plugged.enter_context(simulated_board(PROFILE, port))
        wait_for(machine, "board")
        np.testing.assert_array_equal(run(machine, 3), expected(3))
        assert machine.describe().startswith("board")
        assert (machine.runs_on_board, machine.runs_on_model) == (2, 1)
        machine.close()


def test_requests_of_several_threads_survive_the_loss_of_the_board(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    port, answers = tmp_path / "npu", dict[int, Int8]()
    half = threading.Event()

    def ask(numbers: range, machine: Failover) -> None:
        for number in numbers:
            answers[number] = run(machine, number)
            if len(answers) >= 10:
                half.set()

    with simulated_board(PROFILE, port):
        machine = Failover(PROFILE, PROGRAM, lambda: [str(port)], answer_s=0.1)
        threads = [threading.Thread(target=ask, args=(range(start, 40, 2), machine)) for start in (0, 1)]
        for thread in threads:
            thread.start()
        assert half.wait(30)
    for thread in threads:
        thread.join(30)
    machine.close()
    assert sorted(answers) == list(range(40))
    for number, answer in answers.items():
        np.testing.assert_array_equal(answer, expected(number))
    assert machine.runs_on_model > 0
    assert machine.runs_on_board > 0


def test_a_board_that_fails_at_every_run_loses_no_request(require: Callable[[str], Path]) -> None:
    """The line passes HELLO and the upload, but drops every RUN."""
    require("verilator")
    with simulated_board(PROFILE) as device, faulty_line(device, drop_runs, unchanged) as path:
        machine = Failover(PROFILE, PROGRAM, lambda: [path], probe_s=0.02, answer_s=0.1)
        for number in range(3):
            wait_for(machine, "board")
            np.testing.assert_array_equal(run(machine, number), expected(number))
        machine.close()
    assert (machine.runs_on_board, machine.runs_on_model) == (0, 3)


def drop_runs(data: bytes) -> bytes:
    """Drop a RUN frame: a block of two bytes (sequence, command 4), then the zero of its region."""
    return b"" if data[:1] == b"\x03" and data[2:3] == b"\x04" else data


def test_a_board_of_another_profile_is_not_used_and_named_as_the_reason(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    with simulated_board(PROFILE, tmp_path / "npu") as port:
        other = find_profile("npu-sim-4-paired")
        program, _ = random_program(1, other)
        machine = Failover(other, program, lambda: [port])
        description = machine.describe()
        machine.close()
        Board(PROFILE, port).close()
    assert "the NPU must be npu-sim-4-paired" in description


def test_a_port_that_another_process_uses_is_named_as_the_reason(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    with simulated_board(PROFILE) as port:
        taken = Board(PROFILE, port)
        machine = Failover(PROFILE, PROGRAM, lambda: [port])
        description = machine.describe()
        machine.close()
        taken.close()
    assert description.endswith(f"{port} is in use by another process; close that one first")


def test_a_failover_machine_runs_only_the_program_of_its_constructor() -> None:
    machine = Failover(PROFILE, PROGRAM, list)
    machine.load(PROGRAM)
    with pytest.raises(OperationError, match=r"create a machine for each program$"):
        machine.load(random_program(12, PROFILE)[0])
    machine.close()


def test_usb_ports_are_probed_and_those_of_known_boards_first() -> None:
    ports = [
        SerialPort("/dev/ttyS0", None),
        SerialPort("/dev/ttyUSB1", (0x1A86, 0x7523)),
        SerialPort("/dev/ttyUSB0", (0x10C4, 0xEA60)),
        SerialPort("/dev/ttyUSB2", (0x0403, 0x6015)),
    ]
    assert resolve("auto", ports) == ("/dev/ttyUSB2", "/dev/ttyUSB0", "/dev/ttyUSB1")
    assert resolve("1A86:7523, /dev/ttyACM0", ports) == ("/dev/ttyUSB1", "/dev/ttyACM0")
    assert resolve("0403:6001", ports) == resolve("none", ports) == ()


def test_the_ports_of_this_machine_exist() -> None:
    assert all(os.path.exists(port) for port in candidates())  # noqa: PTH110


def test_a_link_to_a_simulated_board_does_not_replace_a_file(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    (tmp_path / "npu").write_text("mine")
    with (
        pytest.raises(BadInputError, match=r"npu must not exist, or be a symbolic link, but it is another file"),
        simulated_board(PROFILE, tmp_path / "npu"),
    ):
        pass
    assert (tmp_path / "npu").read_text() == "mine"
