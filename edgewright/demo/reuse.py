"""Reuse the models and packages of an earlier demo, so that a second one (over HTTPS alone, for example) starts at the cloud."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgewright.errors import BadInputError

SUMMARY = "summary.json"
_FILES = ("calibration.npz", "heldout.npz", "digits-*.keras", "source-*.npz")
_DIRECTORIES = ("build-v1", "build-v2", "package-v1", "package-v2")


def check_reusable(earlier: Path, directory: Path, *, board_profile: str | None) -> None:
    """Raise `BadInputError` unless `earlier` is another, finished demo with a variant for `board_profile` (if not None)."""
    if earlier == directory:
        raise BadInputError(f"--reuse must be a different directory than --output, but both are {earlier}")
    if not (earlier / SUMMARY).is_file() or not all((earlier / name).is_dir() for name in _DIRECTORIES):
        raise BadInputError(f"{earlier} must hold a finished demo, but it does not: run edgewright demo --output {earlier}")
    if board_profile is not None and not (earlier / "build-v1" / "variants" / board_profile).is_dir():
        raise BadInputError(f"{earlier} must have a variant for {board_profile}, but its demo had no NPU board: add --no-npu")


def copy_results(earlier: Path, directory: Path) -> None:
    """Copy the models, samples, build directories and packages of `earlier` into `directory`."""
    for pattern in _FILES:
        for path in earlier.glob(pattern):
            shutil.copy2(path, directory)
    for name in _DIRECTORIES:
        shutil.copytree(earlier / name, directory / name)
