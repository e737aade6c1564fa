"""The built wheel: what is in it, who owns its names, and that it runs away from this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edgewright", "convert", "quantize", "accel", "edge_agent", "cloud", "hardware_profiles")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the pinned hatchling."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel as an installer would."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_away_from_the_checkout(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    finished = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=60)
    return finished.stdout


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert "hardware_profiles/profiles/raspberry-pi-5.toml" in names
    assert sorted(set(data) - names) == []


def test_every_top_level_name_has_one_owner(installed: Path, tmp_path: Path) -> None:
    code = "import json; from importlib.metadata import packages_distributions as p; print(json.dumps(dict(p())))"
    owners = json.loads(run_away_from_the_checkout(installed, tmp_path, "-c", code))
    assert {name: set(owners[name]) for name in PACKAGES} == {name: {"edgewright"} for name in PACKAGES}


def test_the_command_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import sys, edgewright.cli as c; sys.argv[1:] = ['profiles', 'list']; print(c.__file__); c.main()"
    output = run_away_from_the_checkout(installed, tmp_path, "-c", code)
    assert output.startswith(str(installed))
    assert "raspberry-pi-5" in output
