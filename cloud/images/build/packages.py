"""The layer of an environment's packages, which pip resolves and installs.

The server's own packages are on the path anyway: pip is first asked to keep their versions, so that numpy is not stored twice.
Where that has no solution, the environment's own versions are installed and take precedence.
Where no conda channel is reachable (`conda.py`), conda packages become pip packages of the same name.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from cloud.images.build.bytecode import Compiler
from cloud.images.build.conda import name_of
from cloud.images.build.installed import files_of, layer_of
from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import PYTHON_VERSION, own_platform
from edgewright.contracts.environments.definition import SERVER_PACKAGES, Environment
from edgewright.contracts.environments.images import PLATFORMS, ImageLayer, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.errors import BadInputError, OperationError

PACKAGES_FOLDER = "opt/edgewright/packages"
Log = Callable[[str], None]
_CONDA = re.compile(r"(?:[\w./-]+::)?([A-Za-z0-9._-]+)\s*(.*)")
_PIP_NAMES = {"pytorch": "torch", "tensorflow-mkl": "tensorflow", "py-xgboost": "xgboost", "opencv": "opencv-python-headless"}
"""Packages whose names in conda and pip differ; those of conda's default channel, https://anaconda.org."""
_NO_PACKAGES = frozenset(["python", "pip", "setuptools", "wheel"])
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Installer:
    """pip on this machine, in a temporary folder, with the pins of the server.

    For another platform than this machine's, pip takes the wheels of that platform and runs none of their code.
    """

    work: Path
    pins: dict[str, str]
    log: Log
    platform: str = field(default_factory=own_platform)

    def install_pins(self) -> Path:
        """Install the server's own dependencies in their versions, and return the folder; the caller removes it.

        Raises:
            BadInputError: one of them has no wheel for the platform.
        """
        target = self.work / "server"
        pins = tuple(f"{name}=={version}" for name, version in self.pins.items())
        refusal = self._run(pins, "", target, None, "--no-deps")
        if refusal:
            raise BadInputError(refusal)
        return target

    def install(self, requirements: tuple[str, ...], index_url: str) -> Path:
        """Install requirements into a new folder and return it.

        Raises:
            BadInputError: pip cannot resolve them; the text is pip's own.
        """
        constraints = self.work / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in self.pins.items()), encoding="utf-8")
        target = self.work / "packages"
        refusal = self._run(requirements, index_url, target, constraints)
        if refusal and self._conflicts(refusal):
            self.log("the server's own versions do not suit these packages: theirs are installed instead")
            shutil.rmtree(target, ignore_errors=True)
            refusal = self._run(requirements, index_url, target, None)
        if refusal:
            raise BadInputError(refusal)
        return target

    def _run(self, requirements: tuple[str, ...], index_url: str, target: Path, constraints: Path | None, *options: str) -> str:
        """Run pip and return an empty text, or its words if it refuses."""
        command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-compile"]
        command += ["--no-warn-conflicts", "--quiet", "--progress-bar", "off", "--only-binary", ":all:", "--target", str(target)]
        command += [*options, *_wheels_of(self.platform)]
        command += ["--index-url", index_url] if index_url else []
        command += ["--constraint", str(constraints)] if constraints is not None else []
        self.log(f"pip install {' '.join(requirements)}")
        finished = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
        for line in (finished.stdout + finished.stderr).splitlines():
            self.log(line)
        if finished.returncode == 0:
            return ""
        errors = [line.removeprefix("ERROR: ") for line in finished.stderr.splitlines() if line.startswith("ERROR: ")]
        refusal = "pip: " + " ".join(errors or finished.stderr.splitlines()[-1:])
        return refusal if self.platform == own_platform() else self._for_platform(refusal)

    def _for_platform(self, refusal: str) -> str:
        missing = re.search(r"satisfies the requirement (\S+)", refusal)
        if missing is None:
            return f"{self.platform}: {refusal}"
        return (
            f"{missing[1]} must have a wheel of Python {PYTHON_VERSION} for {self.platform}, but the package index has none: "
            f"choose another version, or leave the platform out ({refusal})"
        )

    @staticmethod
    def _conflicts(refusal: str) -> bool:
        return "ResolutionImpossible" in refusal or "conflict" in refusal or "constraint" in refusal


def requirements_of(environment: Environment, log: Log, *, has_channels: bool = False) -> tuple[str, ...]:
    """Return the pip requirements of an environment, sorted; conda packages are translated if no channel is reachable."""
    wanted = list(environment.pip_packages)
    if environment.conda_packages and not has_channels:
        log("conda packages are installed from the package index of pip under the same names: no conda channel is used")
        wanted += [translated for package in environment.conda_packages if (translated := from_conda(package))]
    return _without_server(wanted, lambda requirement: re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0], log)


def conda_specs_of(environment: Environment, log: Log) -> tuple[str, ...]:
    """Return the conda packages of an environment, sorted, without Python and the server's own."""
    return _without_server([spec.strip() for spec in environment.conda_packages], name_of, log)


def _without_server(packages: list[str], name_of_package: Callable[[str], str], log: Log) -> tuple[str, ...]:
    kept = []
    for package in packages:
        name = canonicalize_name(name_of_package(package))
        if name in SERVER_PACKAGES:
            log(f"{name} is left out: edgewright's own server takes its place")
        elif name not in _NO_PACKAGES:
            kept.append(package)
    return tuple(sorted(set(kept)))


def from_conda(package: str) -> str:
    """Return a conda package in pip's notation: numpy=1.26 becomes numpy==1.26.*; a build string is left out."""
    match = _CONDA.fullmatch(package.strip())
    if match is None:
        raise BadInputError(f"a conda package must be a name with an optional version, not {package[:100]!r}")
    name, rest = _PIP_NAMES.get(match[1].lower(), match[1]), match[2].strip()
    if not rest or name.lower() in _NO_PACKAGES:
        return "" if name.lower() in _NO_PACKAGES else name
    exact = re.fullmatch(r"(==?)\s*([^=\s]+)(?:=\S+)?", rest)
    if exact is None:
        return name + rest.replace(" ", "")
    is_prefix = exact[1] == "=" and not exact[2].endswith("*")
    return f"{name}=={exact[2]}{'.*' if is_prefix else ''}"


def foreign_server_layer(store: LayerStore, installer: Installer) -> ImageLayer:
    """Return the server layer for another platform: edgewright's own files, and its dependencies from wheels of that platform.

    Raises:
        BadInputError: a dependency has no wheel for the platform; the message names both.
    """

    def install() -> list[metadata.Distribution]:
        installer.log(f"the dependencies of the server for {installer.platform}")
        folder = installer.install_pins()
        return sorted(metadata.distributions(path=[str(folder)]), key=lambda each: each.name)

    try:
        return layer_of(store, f"{installer.platform} {installer.pins}", install)
    finally:
        shutil.rmtree(installer.work / "server", ignore_errors=True)


def packages_layer(store: LayerStore, requirements: tuple[str, ...], index_url: str, installer: Installer) -> ImageLayer | None:
    """Return the layer of the packages that the server does not have already; None if there are none."""
    if not requirements:
        return None
    foreign = "" if installer.platform == own_platform() else f" {installer.platform}"
    key = f"packages {_FORMAT} {PYTHON_VERSION} {requirements} {index_url} {installer.pins}{foreign}"
    layer = store.once(key, LayerPart.PACKAGES, lambda: _made(store, requirements, index_url, installer))
    installer.log(f"packages: {layer.title}")
    return layer


def _made(store: LayerStore, requirements: tuple[str, ...], index_url: str, installer: Installer) -> ImageLayer:
    target = installer.install(requirements, index_url)
    own = [each for each in metadata.distributions(path=[str(target)]) if not _is_servers(each, installer.pins)]
    names = sorted(f"{canonicalize_name(each.name)} {each.version}" for each in own)
    layer = store.write(_entries(own), LayerPart.PACKAGES, ", ".join(names) or "only those of the server", compressed=True)
    shutil.rmtree(target)
    return layer


def _wheels_of(platform: str) -> list[str]:
    """Return pip's options for another platform: wheels of the manylinux policies up to glibc 2.28, the newest first."""
    if platform == own_platform():
        return []
    machine = PLATFORMS[platform]
    tags = [*(f"manylinux_2_{minor}_{machine}" for minor in range(28, 16, -1)), f"manylinux2014_{machine}"]
    options = [option for tag in tags for option in ("--platform", tag)]
    return [*options, "--python-version", PYTHON_VERSION, "--implementation", "cp"]


def _is_servers(distribution: metadata.Distribution, pins: dict[str, str]) -> bool:
    return pins.get(canonicalize_name(distribution.name)) == distribution.version


def _entries(distributions: list[metadata.Distribution]) -> Iterator[Entry]:
    compiler = Compiler()
    yield Entry(path=PACKAGES_FOLDER, source=None, mode=0o755)
    for distribution in distributions:
        for place, path in files_of(distribution):
            yield from compiler.entries(f"{PACKAGES_FOLDER}/{place}", path)


def check_pip() -> None:
    """Raise `OperationError` if this machine's Python has no pip."""
    finished = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if finished.returncode != 0:
        raise OperationError(f"building packages needs pip, which {sys.executable} does not have: python -m ensurepip")
