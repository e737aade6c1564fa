"""A native crash of a runtime ends a command with one line, exit code 1, and nothing half-written."""

from __future__ import annotations

import contextvars
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgewright.contracts.samples import write_npz
from edgewright.steps import Recording, Step, record_in, step, temporary
from edgewright.supervised import crash_message
from tests.support.float_builds import float_build, float_model

HELP = "repeat it with -v to see the events before the crash"
SCHEME = "use another scheme"
CASES = {
    "calibration": ("quantize.calibration.calibrate:collect_ranges", "SIGSEGV", "int8"),
    "bias correction": ("quantize.int8.bias_correction:_run", "SIGABRT", "int8"),
    "NNCF": ("quantize.int8.openvino:_quiet_nncf", "SIGSEGV", "int8 --backend openvino"),
    "sensitivity of mixed": ("quantize.int8.mixed_precision:tensor_sqnr", "SIGKILL", "mixed"),
    "search of mixed": ("quantize.int8.mixed_precision:score_of", "SIGBUS", "mixed --max-drop 1%"),
    "float scores": ("quantize.quantization:describe", "SIGILL", "fp16"),
    "request to end": ("quantize.quantization:check_zero_input", "SIGTERM", "fp16"),
    "evaluation": ("accel.evaluate:run_all", "SIGBUS", "evaluate"),
    "conversion": ("convert.conversion:verify", "SIGFPE", "convert"),
    "no crash": ("", "SIGTERM", "no scheme"),
}
LINES = {
    "calibration": f"quantize must finish, but it crashed in native code (SIGSEGV) during "
    f"the quantization of BUILD to int8; the calibration: {SCHEME}",
    "bias correction": f"quantize must finish, but it crashed in native code (SIGABRT) during "
    f"the quantization of BUILD to int8; bias correction: {SCHEME}",
    "NNCF": f"quantize must finish, but it crashed in native code (SIGSEGV) during "
    f"the quantization of BUILD to int8-openvino; the quantization by nncf: {SCHEME}",
    "search of mixed": f"quantize must finish, but it crashed in native code (SIGBUS) during "
    f"the quantization of BUILD to mixed: {SCHEME}",
    "float scores": "quantize must finish, but it crashed in native code (SIGILL) during "
    "the scoring of the float variant: export the model with another operator set",
    "evaluation": f"evaluate must finish, but it crashed in native code (SIGBUS) during "
    f"the evaluation of BUILD/variants/fp32: {HELP}",
    "conversion": "convert must finish, but it crashed in native code (SIGFPE) during "
    "the conversion of FOLDER/model.onnx; the comparison with the source: export the model with another operator set",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, its build and samples."""
    folder = tmp_path_factory.mktemp("crashes")
    numbers = np.random.default_rng(0)
    rows = numbers.normal(size=(40, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], name="second"),
    ]
    shapes = {"w": (8, 6), "b": (6,), "v": (6, 3), "c": (3,)}
    weights = {name: numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = float_model(nodes, weights, rows)
    float_build(folder / "build", model, rows)
    write_npz(folder / "samples.npz", {"x": rows})
    onnx.save(model, folder / "model.onnx")
    (folder / "scratch").mkdir()
    return folder


@pytest.fixture(scope="module")
def outcomes(place: Path) -> dict[str, dict[str, Any]]:
    """Return the exit code and the lines of every case."""
    cases = [
        {"function": function, "signal": number, "arguments": _arguments(place, command)}
        for function, number, command in CASES.values()
    ]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.crashing_commands"],
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(place / "scratch")},
    )
    return dict(zip(CASES, json.loads(finished.stdout), strict=True))


def _arguments(place: Path, command: str) -> list[str]:
    samples = ["--samples", str(place / "samples.npz")]
    if command == "convert":
        return ["convert", str(place / "model.onnx"), "-o", str(place / "new")]
    if command == "evaluate":
        return ["evaluate", str(place / "build"), *samples]
    return ["quantize", str(place / "build"), *samples, *([] if command == "no scheme" else ["--scheme", *command.split()])]


@pytest.mark.parametrize("name", LINES)
def test_a_crash_is_one_line_with_the_signal_and_the_step(name: str, outcomes: dict[str, Any], place: Path) -> None:
    line = LINES[name].replace("BUILD", f"{place}/build").replace("FOLDER", str(place))
    assert outcomes[name] == {"exit_code": 1, "lines": [f"edgewright: {line}"]}


def test_a_kill_for_want_of_memory_names_its_peak(outcomes: dict[str, Any], place: Path) -> None:
    (line,) = outcomes["sensitivity of mixed"]["lines"]
    before, peak, after = line.partition(" at 0.")
    assert before == "edgewright: quantize must finish, but the system ended it by SIGKILL"
    assert peak
    assert after.partition(" GB, ")[2] == (
        f"as it does when memory runs out, during the quantization of {place}/build to mixed; "
        "the measurement of sensitivity of layers: use fewer samples, or a machine with more memory"
    )


def test_a_requested_end_and_a_usage_error_stay_as_they_are(outcomes: dict[str, Any]) -> None:
    assert outcomes["request to end"] == {"exit_code": -signal.SIGTERM, "lines": []}
    assert outcomes["no crash"]["exit_code"] == 2
    assert any("Missing option '--scheme'" in line for line in outcomes["no crash"]["lines"])


def test_no_crash_leaves_a_file(outcomes: dict[str, Any], place: Path) -> None:
    assert sorted(path.name for path in place.iterdir()) == ["build", "model.onnx", "samples.npz", "scratch"]
    assert [path.name for path in (place / "build/variants").iterdir()] == ["fp32"]
    assert not list((place / "scratch").iterdir())


def test_the_name_of_a_staging_directory_is_not_shown() -> None:
    steps = [Step("a run of /b/variants/.int8-0123456789abcdef/graph.onnx in onnxruntime")]
    assert crash_message("quantize", signal.SIGSEGV, steps, 0) == (
        "edgewright: quantize must finish, but it crashed in native code (SIGSEGV) during "
        f"a run of /b/variants/int8/graph.onnx in onnxruntime: {HELP}"
    )


CHILD = """
import os, signal, sys
from edgewright.supervised import run_in_child
run_in_child("quantize")
interrupts = []
signal.signal(signal.SIGINT, lambda *_: (interrupts.append(1), os.write(1, b"interrupt "))[0])
os.write(1, b"ready ")
os.read(0, 1)
sys.exit(40 + len(interrupts))
"""


def test_the_child_ends_with_a_command_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"ready "
        process.kill()
        assert process.stdout.read() == b""  # no process holds the other end


def test_an_interrupt_of_the_terminal_reaches_the_child_once() -> None:
    assert _end_in_terminal(lambda terminal, _: os.write(terminal, b"\x03")) == 41


def test_an_interrupt_of_the_command_alone_is_passed_on() -> None:
    assert _end_in_terminal(lambda _, process: os.kill(process, signal.SIGINT)) == 41


def _end_in_terminal(interrupt: Callable[[int, int], object]) -> int:
    """Start the child in a terminal, interrupt it, press Enter, and return the exit code of the command."""
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, "-c", CHILD])
    with os.fdopen(terminal, "r+b", buffering=0) as stream:
        assert stream.read(6) == b"ready "
        interrupt(terminal, process)
        printed = b""
        while not printed.endswith(b"interrupt "):
            printed += stream.read(1)
        stream.write(b"\n")
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_steps_and_temporary_files_are_recorded_until_they_end(tmp_path: Path) -> None:
    written, read = Recording.create(), Recording.create()
    read.handle = written.handle

    def record() -> None:
        record_in(written)
        (tmp_path / "kept").touch()
        with temporary(tmp_path / "kept"), temporary(tmp_path / "removed"), step("a", "help"):
            with step("a long step that is over"):
                pass
            read.read()

    contextvars.copy_context().run(record)
    assert (read.steps, read.paths) == ([Step("a", "help")], [str(tmp_path / "kept"), str(tmp_path / "removed")])
    read.read()
    assert (read.steps, read.paths) == ([], [str(tmp_path / "kept")])
