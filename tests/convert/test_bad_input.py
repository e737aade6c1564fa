"""Failed conversions: the command prints one line, exits with the right code, and leaves no files."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skops.io
from click.testing import CliRunner
from onnx import helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from edgewright.cli import main
from tests.support.convert_networks import digits, keras_file, noise

FLOAT = onnx.TensorProto.FLOAT
WIDE = 600
"""Rows and columns of a weight of 1.4 MB."""


def matrix(path: Path, weight: Any) -> Path:
    """Return an ONNX file with one product."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def error_line(code: int, *arguments: object) -> str:
    """Run the command and return its error line."""
    result = CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip().removeprefix("edgewright: ")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Return the path for a build, in a folder that must stay empty."""
    (tmp_path / "output").mkdir()
    return tmp_path / "output" / "build"


def test_a_weight_that_is_nan(tmp_path: Path, build: Path) -> None:
    weight = noise(4, 3)
    weight[2, 1] = np.nan
    assert error_line(2, matrix(tmp_path / "m.onnx", weight), "-o", build) == (
        "weight weight must hold finite numbers, but it holds NaN: the training diverged; train the model again"
    )
    assert not list(build.parent.iterdir())


def test_a_pickle_without_trust(tmp_path: Path, build: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([1]))
    line = error_line(2, tmp_path / "m.pkl", "-o", build)
    assert line.startswith(f"{tmp_path}/m.pkl is a pickle, which can run any code when it is opened")
    assert "--trust" in line
    assert not list(build.parent.iterdir())


def test_a_head_that_does_not_exist(tmp_path: Path, build: Path) -> None:
    line = error_line(2, matrix(tmp_path / "m.onnx", noise(4, 3)), "-o", build, "--head-from", "produkt")
    assert line == "the graph has no node or layer 'produkt'; known: product"
    assert not list(build.parent.iterdir())


def test_a_directory_of_several_models(tmp_path: Path, build: Path) -> None:
    (tmp_path / "models").mkdir()
    matrix(tmp_path / "models" / "b.onnx", noise(2, 2))
    (tmp_path / "models" / "a.keras").write_bytes(keras_file().read_bytes())
    (tmp_path / "models" / "notes.txt").write_text("which one?", "utf-8")
    assert error_line(2, tmp_path / "models", "-o", build) == (
        f"{tmp_path}/models must be one model, but it is a directory with a.keras, b.onnx: convert one of them"
    )


def test_an_archive_of_two_formats(tmp_path: Path, build: Path) -> None:
    images, labels = digits()
    path = tmp_path / "mixed"
    skops.io.dump(LogisticRegression(max_iter=5, tol=1.0).fit(images.reshape(-1, 64), labels), path)
    with zipfile.ZipFile(keras_file()) as source, zipfile.ZipFile(path, "a") as mixed:
        for name in source.namelist():
            mixed.writestr(name, source.read(name))
    assert error_line(2, path, "-o", build) == (
        f"{path} must be one model, but it holds those of keras and sklearn: keep one of them"
    )


LIMITED = """
import resource, sys
from convert import conversion, from_onnx  # imported first, so that the limit applies to the conversion
from edgewright.cli import main
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
more = int(sys.argv[2]) + (used if sys.argv[1] == "RLIMIT_DATA" else 0)
resource.setrlimit(getattr(resource, sys.argv[1]), (more, more))
main(sys.argv[3:])
"""


def limited(limit: str, value: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with a limit in bytes on a file's size, or on memory in addition to that of the imports."""
    command = [sys.executable, "-c", LIMITED, limit, str(value), "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_file_size_limit(tmp_path: Path, build: Path) -> None:
    process = limited("RLIMIT_FSIZE", 500_000, matrix(tmp_path / "m.onnx", noise(WIDE, WIDE)), "-o", build)
    assert process.returncode == 1, process.stderr
    assert process.stderr == (
        f"edgewright: {build} exceeds the largest permitted file size: raise the limit (ulimit -f) and try again\n"
    )
    assert not list(build.parent.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; test_a_file_size_limit covers the same code")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False, timeout=10).returncode != 0:
        pytest.skip("mounting is not permitted on this machine")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=10)


def test_a_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    build = tiny_disk / "build"
    source = matrix(tmp_path / "m.onnx", noise(WIDE, WIDE))
    assert error_line(1, source, "-o", build) == f"not enough disk space to write {build}: free some space and try again"
    assert not list(tiny_disk.iterdir())


def test_too_little_memory(tmp_path: Path, build: Path) -> None:
    source = matrix(tmp_path / "m.onnx", np.zeros((6000, 5000), np.float32))  # 120 MB
    process = limited("RLIMIT_DATA", 50_000_000, source, "-o", build)
    assert process.returncode == 1, process.stderr
    assert process.stderr.splitlines()[-1] == (
        f"edgewright: {source}: converting it needs more memory than this process may have: free some, or use a larger machine"
    )
    assert not list(build.parent.iterdir())


def test_an_interrupt_leaves_no_files(tmp_path: Path, build: Path) -> None:
    source = matrix(tmp_path / "m.onnx", noise(WIDE, WIDE))
    command = [sys.executable, "-m", "edgewright", "convert", str(source), "-o", str(build)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 100
        while not list(build.parent.iterdir()):  # until the staging directory exists
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "edgewright: interrupted"
    assert not list(build.parent.iterdir())


def test_an_output_that_is_a_file(tmp_path: Path, build: Path) -> None:
    build.write_text("kept")
    assert error_line(2, matrix(tmp_path / "m.onnx", noise(4, 3)), "-o", build) == (
        f"{build} must be a directory, or must not exist, but it is a file: choose another output"
    )
    assert build.read_text() == "kept"


def test_an_output_below_a_file(tmp_path: Path, build: Path) -> None:
    build.write_text("kept")
    assert error_line(2, matrix(tmp_path / "m.onnx", noise(4, 3)), "-o", build / "deeper") == (
        f"{build}/deeper cannot be written (a file is in the way): choose another path, or change its permissions"
    )
