"""Odd places for output, and odd paths: one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.contracts.files import replace_directory, staging_beside, write_atomically, writing_atomically
from edgewright.errors import ModelError, NotWritableError

FULL = Path("/dev/full")


def edgewright(
    *arguments: str | bytes, stdout: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "edgewright", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (stdout or Path(os.devnull)).open("wb") as stream:
        return subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=False, cwd=cwd, env=environment)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["profiles", "list"], ["profiles", "list", "--json"], ["--help"], ["--version"]])
def test_a_full_standard_output_ends_with_one_line(arguments: list[str]) -> None:
    ended = edgewright(*arguments, stdout=FULL)
    assert (ended.returncode, ended.stderr) == (1, b"edgewright: standard output cannot be written: No space left on device\n")


def test_an_argument_that_is_not_utf8_ends_with_one_line() -> None:
    ended = edgewright("bench", b"b\xfcro/build")
    assert (ended.returncode, ended.stderr) == (
        2,
        b"edgewright: paths and arguments must be UTF-8, but b\\xfcro/build is not: rename it, or the folder\n",
    )


def test_a_working_directory_that_is_not_utf8_ends_with_one_line(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"b\xfcro")
    folder.mkdir()
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04")
    ended = edgewright("convert", "../m.pkl", "-o", "build", "--trust", cwd=folder)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_a_file_that_is_a_link_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "report.html"
    link.symlink_to(tmp_path / "disk" / "report.html")
    write_atomically(link, b"first")
    write_atomically(link, b"second")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "report.html").read_bytes() == b"second"


def test_a_directory_that_is_a_dangling_link_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "package"
    link.symlink_to(tmp_path / "disk")
    for content in (b"first", b"second"):
        with staging_beside(link) as staging:
            (staging / "index.json").write_bytes(content)
            replace_directory(staging, link)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "index.json").read_bytes() == b"second"


def test_a_device_is_never_replaced_by_a_file() -> None:
    with pytest.raises(NotWritableError) as caught, writing_atomically(Path(os.devnull)):
        pass
    assert str(caught.value) == f"{os.devnull} must be a file, but it is a device or a pipe: choose another path"
    assert Path(os.devnull).is_char_device()


def test_messages_name_the_target_and_not_the_working_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught, staging_beside(tmp_path / "build") as staging:
        raise ModelError(f"{staging}/graph.onnx failed")
    assert str(caught.value) == f"{tmp_path}/build/graph.onnx failed"
