"""Write a bundle: one tar, without times or owners, so that the same contents give the same bytes.

install.sh                 installs from this folder, without a network
edgewright-agent.service   unit of systemd
requirements.txt           each wheel of the device with its hash
wheels/  installer/        the wheels, and pip, which runs from its wheel and is not installed
enrolment.token            only with a token
SHA256SUMS                 of every file except the token
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

from edge_agent.bundle.wheels import MACHINES, device_pins, download, own_wheel, pins_for
from edgewright import __version__
from edgewright.contracts.connection.enrolment import parse_token
from edgewright.contracts.files import writing_atomically

_HERE = Path(__file__).parent


def make_bundle(output: Path, *, arch: str, python: str, token: str | None = None, pins: Path | None = None) -> None:
    """Write the bundle of the agent for devices of one architecture (`amd64`, `arm64`) and Python version.

    Raises:
        OperationError: pip cannot download a wheel, or the project's own wheel cannot be built.
        DeniedError: the token is damaged.
        NotWritableError: the output cannot be written.
    """
    if token is not None:
        parse_token(token)
    machine = MACHINES[arch]
    with tempfile.TemporaryDirectory(prefix="edgewright-bundle-") as temporary:
        wheels, installer = Path(temporary) / "wheels", Path(temporary) / "installer"
        wheels.mkdir()
        installer.mkdir()
        text = pins_for((pins or device_pins()).read_text("utf-8"), python, machine)
        download(text, wheels, python=python, machine=machine)
        download((_HERE / "pip.txt").read_text("utf-8"), installer, python=python, machine=machine)
        own_wheel(wheels)
        files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in [*wheels.iterdir(), *installer.iterdir()]}
    files["requirements.txt"] = _requirements({path: raw for path, raw in files.items() if path.startswith("wheels/")})
    script = (_HERE / "install.sh").read_text("utf-8").replace("@MACHINE@", machine).replace("@PYTHON@", python)
    files["install.sh"] = script.encode()
    files["edgewright-agent.service"] = (_HERE / "edgewright-agent.service").read_bytes()
    sums = "".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files))
    files["SHA256SUMS"] = sums.encode()
    if token is not None:
        files["enrolment.token"] = token.encode()
    _write_tar(output, f"edgewright-agent-{__version__}-{arch}-py{python}", files, is_secret=token is not None)


def _requirements(wheels: dict[str, bytes]) -> bytes:
    lines = []
    for path in sorted(wheels):
        name, version = Path(path).name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheels[path]).hexdigest()}\n")
    return "".join(lines).encode()


def _write_tar(output: Path, folder: str, files: dict[str, bytes], *, is_secret: bool) -> None:
    with (
        writing_atomically(output, mode=0o600 if is_secret else 0o666) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{path}")
            entry.size = len(files[path])
            entry.mode = {"install.sh": 0o755, "enrolment.token": 0o600}.get(path, 0o644)
            archive.addfile(entry, io.BytesIO(files[path]))
