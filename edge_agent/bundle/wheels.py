"""The wheels of a bundle: the pinned ones from pip's own index, and the project's own, built from this installation."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from edgewright.errors import NotFoundError, OperationError

_TIMEOUT_S = 1800.0
_ROOT = Path(__file__).resolve().parent.parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Output of `uname -m` by Debian's name of the architecture."""


def device_pins() -> Path:
    """Return the pins of a device: shipped in the wheel, or in the checkout.

    Raises:
        NotFoundError: neither has them.
    """
    for path in (Path(__file__).with_name("device.txt"), _ROOT / "requirements" / "device.txt"):
        if path.is_file():
            return path
    raise NotFoundError("requirements/device.txt must be in the installation, but it is not: install edgewright again")


def pins_for(pins: str, python: str, machine: str) -> str:
    """Return the pins whose markers hold for CPython `python` (such as 3.13) on Linux, without the markers.

    The markers are evaluated here, because pip evaluates them for the interpreter that it runs in.
    """
    from packaging.markers import Marker

    target = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": "",
    }
    kept = []
    for line in pins.replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split(" --hash=")
        name, _, marker = requirement.partition(";")
        if not name.strip() or name.startswith("#") or (marker.strip() and not Marker(marker.strip()).evaluate(target)):
            continue
        kept.append(" ".join([name.strip(), *(f"--hash={each.split('#')[0].strip()}" for each in hashes)]))
    return "".join(f"{line}\n" for line in kept)


def download(pins: str, folder: Path, *, python: str, machine: str) -> None:
    """Download the wheels of `pins` for a device; pip's own configuration says from where, and it checks every hash.

    Raises:
        OperationError: pip fails; the message is its last line.
    """
    tag = python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)] + [f"manylinux2014_{machine}"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--require-hashes", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    for abi in (f"cp{tag}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in platforms:
        command += ["--platform", platform]
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(pins, "utf-8")
        _run([*command, "-r", str(requirements)], "pip must download the wheels of the bundle")


def own_wheel(folder: Path) -> None:
    """Write the wheel of edgewright: built from the checkout that runs, or packed again from the installed files.

    Raises:
        OperationError: the checkout cannot be built.
    """
    if (_ROOT / "pyproject.toml").is_file():
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve())]
        _run(command, "hatchling must build the wheel of this checkout", cwd=_ROOT)
    else:
        repack(distribution("edgewright"), folder)


def repack(installed: Distribution, folder: Path) -> Path:
    """Write the wheel of an installed pure-Python distribution; the same files give the same bytes."""
    made_by_installers = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    files: dict[str, bytes] = {}
    for member in installed.files or ():
        text = member.as_posix()
        is_own = member.parent.suffix == ".dist-info" and member.name in made_by_installers
        if not (text.startswith("../") or "__pycache__" in member.parts or is_own):
            files[text] = Path(str(member.locate())).read_bytes()
    name = f"{installed.name}-{installed.version}"
    record = f"{name}.dist-info/RECORD"
    rows = [f"{path},sha256={_url_digest(raw)},{len(raw)}" for path, raw in sorted(files.items())]
    files[record] = "".join(f"{row}\n" for row in [*rows, f"{record},,"]).encode()
    target = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[path], zipfile.ZIP_DEFLATED)
    return target


def _url_digest(raw: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


def _run(command: list[str], must: str, cwd: Path | None = None) -> None:
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if finished.returncode:
        lines = (finished.stderr or finished.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit code {finished.returncode}"]
        raise OperationError(f"{must}, but it failed: {errors[-1]}")
