from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts.files import replace_directory, staging_beside, write_atomically, writing_atomically
from edgewright.errors import NotWritableError, StorageFullError


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), writing_atomically(path) as stream:
        stream.write(b"half of the new")
        stream.flush()
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_raises_storage_full_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError) as full, writing_atomically(tmp_path / "blob"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(full.value) == f"not enough disk space to write {tmp_path}/blob: free some space and try again"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "variant"
    target.mkdir()
    (target / "old").touch()
    with staging_beside(target) as staging:
        (staging / "new").touch()
        replace_directory(staging, target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging_beside(tmp_path / "variant") as staging:
        (staging / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_right_after_the_directory_was_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may arrive between any two lines; here it arrives while mkdir returns after making the directory."""
    make = os.mkdir

    def make_and_be_interrupted(*arguments: Any, **named: Any) -> None:
        make(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", make_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), staging_beside(tmp_path / "variant"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("renames", [1, 2])
def test_an_interrupt_in_a_replacement_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    target = tmp_path / "variant"
    target.mkdir()
    (target / "old").touch()
    rename, left = os.rename, [renames]

    def rename_and_be_interrupted(*arguments: Any, **named: Any) -> None:
        rename(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staging_beside(target) as staging:
        (staging / "new").touch()
        monkeypatch.setattr(os, "rename", rename_and_be_interrupted)
        replace_directory(staging, target)
    assert [path.name for path in target.iterdir()] == [{1: "old", 2: "new"}[renames]]
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_has_the_requested_mode_reduced_by_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "shared", b"")
        write_atomically(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_file_in_the_place_of_a_parent_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"cannot be written \(.+\): choose another path, or change its permissions$"
    with pytest.raises(NotWritableError, match=message):
        write_atomically(tmp_path / "file" / "report.html", b"")
    with pytest.raises(NotWritableError, match=message), staging_beside(tmp_path / "file" / "build"):
        pass


def test_a_directory_in_the_place_of_the_file_is_an_error_and_kept(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(NotWritableError, match=r"report\.html cannot be written \(Is a directory\)"):
        write_atomically(tmp_path / "report.html", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
