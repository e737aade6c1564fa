"""A bundle for a device without internet: pins of its Python, wheels by hash, the same bytes each time, and an installer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.bundle.cli import bundle
from edge_agent.bundle.make import make_bundle
from edge_agent.bundle.wheels import device_pins, pins_for, repack
from edgewright.errors import DeniedError, OperationError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip find two tiny wheels, and nothing else, by its own configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("tiny-1.0-py3-none-any.whl", "pip-26.3-py3-none-any.whl"):
        project, version = name.split("-")[:2]
        with zipfile.ZipFile(folder / name, "w") as archive:
            info = f"{project}-{version}.dist-info"
            archive.writestr(zipfile.ZipInfo(f"{info}/METADATA"), f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
            archive.writestr(zipfile.ZipInfo(f"{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    installer = hashlib.sha256((folder / "pip-26.3-py3-none-any.whl").read_bytes()).hexdigest()
    here = tmp_path / "here"
    here.mkdir()
    import edge_agent.bundle.make as module

    for name in ("install.sh", "edgewright-agent.service"):
        (here / name).write_bytes((module._HERE / name).read_bytes())
    (here / "pip.txt").write_text(f"pip==26.3 --hash=sha256:{installer}\n")
    monkeypatch.setattr(module, "_HERE", here)
    return folder


def pins_of(index: Path, digest: str | None = None) -> Path:
    found = digest or hashlib.sha256((index / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    path = index.parent / "pins.txt"
    path.write_text(f"tiny==1.0 \\\n    --hash=sha256:{found}\n    # via edgewright\n")
    return path


@pytest.mark.parametrize(("python", "numpy"), [("3.11", "numpy==2.4"), ("3.13", "numpy==2.5")])
def test_the_pins_are_those_of_the_devices_python(python: str, numpy: str) -> None:
    lines = pins_for(device_pins().read_text("utf-8"), python, "aarch64").splitlines()
    assert [line[:10] for line in lines if line.startswith("numpy")] == [numpy]
    assert all(" --hash=sha256:" in line and ";" not in line for line in lines)
    assert len(lines) == len({line.split("==")[0] for line in lines})


def test_a_bundle_holds_verified_wheels_and_has_the_same_bytes_each_time(index: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    for output in (first, second):
        make_bundle(output, arch="arm64", python="3.13", pins=pins_of(index))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        archive.extractall(tmp_path, filter="data")
        assert {(member.mtime, member.uid, member.gid) for member in archive} == {(0, 0, 0)}
    (folder,) = tmp_path.glob("edgewright-agent-*-arm64-py3.13")
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True, timeout=60)
    assert [line.split("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()] == ["edgewright", "tiny"]
    subprocess.run(["sh", "-n", "install.sh"], cwd=folder, check=True, timeout=60)
    assert "wanted_machine=aarch64\nwanted_python=3.13\n" in (folder / "install.sh").read_text()


def test_a_wheel_with_another_hash_is_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="pip must download"):
        make_bundle(tmp_path / "out.tar", arch="amd64", python="3.11", pins=pins_of(index, "0" * 64))
    assert not (tmp_path / "out.tar").exists()


def test_a_damaged_token_is_refused_before_a_download(tmp_path: Path) -> None:
    with pytest.raises(DeniedError):
        make_bundle(tmp_path / "out.tar", arch="amd64", python="3.11", token="ew1.damaged")
    result = CliRunner().invoke(bundle, ["--arch", "mips", "--python", "3.11"])
    assert result.exit_code == 2


def test_an_installation_is_packed_into_a_wheel_that_pip_installs(tmp_path: Path) -> None:
    info = tmp_path / "site" / "own-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "own.py").write_text("answer = 42\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "RECORD").write_text(
        "own.py,,\n__pycache__/own.pyc,,\n../../../bin/own,,\nown-1.0.dist-info/METADATA,,\nown-1.0.dist-info/WHEEL,,\n"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wheel, again = (repack(PathDistribution(info), tmp_path / name) for name in ("a", "b"))
    assert wheel.read_bytes() == again.read_bytes()
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(tmp_path / "to"),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "to" / "own.py").read_text() == "answer = 42\n"
