"""`edgewright npu simulate` and `npu run --device`: the commands for a board, and their errors."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from accel.npu.link.serial_line import open_error
from benchmarks.networks.npu_networks import INPUT, Network, quantize
from edgewright.cli import main
from edgewright.errors import BadInputError, ConflictError, EdgewrightError, UnreachableError


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], Path]) -> Iterator[Path]:
    """A board that `npu simulate` runs, by its symbolic link."""
    require("verilator")
    link = tmp_path_factory.mktemp("port") / "npu0"
    command = [sys.executable, "-m", "edgewright", "npu", "simulate", "--profile", "npu-sim-4", "--link", str(link)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready, _, _ = select.select([process.stdout], [], [], 120)
        try:
            assert ready
            assert process.stdout.readline().strip() == str(link)
            yield link
        finally:
            process.send_signal(signal.SIGTERM)
            hints = process.stderr.read()
            process.wait(20)
    assert f"edgewright npu run MODEL --profile npu-sim-4 --samples X.npz --device {link}" in hints
    assert not link.is_symlink()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quantized model and two samples."""
    folder, network = tmp_path_factory.mktemp("files"), Network(3, 6, 6)
    plain = network.model(network.conv(INPUT, 3, 4))
    onnx.save(quantize(plain, network.images(4)), folder / "model.onnx")
    np.savez(folder / "samples.npz", image=network.images(2))
    return folder / "model.onnx", folder / "samples.npz"


def run(files: tuple[Path, Path], *options: object) -> Result:
    model, samples = map(str, files)
    return CliRunner().invoke(
        main, ["npu", "run", model, "--profile", "npu-sim-4", "--samples", samples, *map(str, options)], catch_exceptions=False
    )


def test_a_run_on_a_board_reports_compute_time_and_wire_time_separately(port: Path, files: tuple[Path, Path]) -> None:
    result = run(files, "--device", port, "--json")
    assert result.exit_code == 0, result.output
    board = json.loads(result.stdout)["board"]
    assert board["outputs"] == "equal to the functional model"
    assert board["compute_ms"] == pytest.approx(board["cycles"] / 60e3, abs=1e-3)
    assert board["wire_and_wait_ms"] > 0
    assert board["repeated_frames"] >= 0  # the number depends on the load of the machine


def test_simulate_ends_with_one_line_and_removes_its_link_when_its_board_is_gone(
    tmp_path: Path, require: Callable[[str], Path]
) -> None:
    require("verilator")
    command = [sys.executable, "-m", "edgewright", "npu", "simulate", "--profile", "npu-sim-4", "--link", str(tmp_path / "npu0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == str(tmp_path / "npu0")
            (board,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            os.kill(int(board), signal.SIGKILL)
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == (
        "edgewright: the simulated board must run until it is interrupted, but it ended with -9; start it again"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--device", "/tmp"], "/tmp must be a serial port, but it is not one", id="a directory"),
        pytest.param(["--device", "/dev/null"], "/dev/null must be a serial port, but it is not one", id="no terminal"),
    ],
)
def test_a_device_that_is_not_a_serial_port_is_one_line_and_exit_code_2(
    files: tuple[Path, Path], options: list[str], message: str
) -> None:
    result = run(files, *options)
    assert (result.exit_code, result.stderr) == (2, f"edgewright: {message}\n")


@pytest.mark.parametrize("baud", ["0", "-5"])
def test_a_speed_of_zero_or_less_is_refused(files: tuple[Path, Path], baud: str) -> None:
    result = run(files, "--device", "/dev/null", "--baud", baud)
    assert result.exit_code == 2
    assert "Invalid value for '--baud'" in result.stderr


def test_a_run_at_another_speed(port: Path, files: tuple[Path, Path]) -> None:
    assert "board: outputs equal to the functional model, cycles" in run(files, "--device", port, "--baud", 1_000_000).stdout
    refused = run(files, "--device", port, "--baud", 2_900_000)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "the baud rate must be the board's 12 MHz divided by 4 to 65535, within 2%" in refused.stderr


def test_ports_without_a_board_are_one_line_and_exit_code_3(files: tuple[Path, Path]) -> None:
    result = run(files, "--device", "/dev/ttyUSB98,/dev/ttyUSB99")
    assert result.exit_code == 3
    assert result.stderr == (
        "edgewright: no serial port (/dev/ttyUSB98,/dev/ttyUSB99) has a board npu-sim-4: "
        "there is no serial port /dev/ttyUSB98; is the board plugged in?; "
        "there is no serial port /dev/ttyUSB99; is the board plugged in?; plug it in, or specify its port with --device\n"
    )


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        pytest.param(errno.ENOENT, UnreachableError, "there is no serial port P; is the board plugged in?", id="absent"),
        pytest.param(
            errno.EACCES,
            BadInputError,
            "P may not be opened by this user; run: sudo usermod -aG dialout $USER, and log in again",
            id="no permission",
        ),
        pytest.param(errno.EBUSY, ConflictError, "P is in use by another process; close that one first", id="busy"),
        pytest.param(errno.EAGAIN, ConflictError, "P is in use by another process; close that one first", id="locked"),
        pytest.param(errno.ENOTTY, BadInputError, "P must be a serial port, but it is not one", id="a file"),
        pytest.param(errno.EIO, UnreachableError, "the serial port P cannot be opened: Input/output error", id="just unplugged"),
    ],
)
def test_the_error_of_a_port_that_cannot_be_opened_gives_advice(number: int, kind: type[EdgewrightError], message: str) -> None:
    error = open_error("P", OSError(number, os.strerror(number)))
    assert (type(error), str(error)) == (kind, message)
