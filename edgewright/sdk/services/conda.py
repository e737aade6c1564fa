"""Packages of an environment, as Azure ML's `CondaDependencies` lists them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgewright.contracts.environments import reading
from edgewright.contracts.files import write_atomically

CONDA_FILE = "conda_dependencies.yml"
DEFAULT_CHANNELS = ("anaconda", "conda-forge")


class CondaDependencies:
    """Conda and pip packages, channels, and a version of Python; an empty version means that of the building machine."""

    def __init__(self, conda_dependencies_file_path: str | os.PathLike[str] | None = None) -> None:
        """Begin without packages, or with those of a conda environment file.

        Raises:
            NotFoundError: there is no such file.
            BadInputError: it is not a conda environment.
        """
        self._python_version = ""
        self._conda: list[str] = []
        self._pip: list[str] = []
        self._channels: list[str] = []
        self._pip_index_url = ""
        if conda_dependencies_file_path is not None:
            read = reading.from_conda(Path(conda_dependencies_file_path), name="dependencies")
            self._python_version = read.python_version
            self._conda, self._pip = list(read.conda_packages), list(read.pip_packages)
            self._channels, self._pip_index_url = list(read.conda_channels), read.pip_index_url

    @staticmethod
    def create(
        pip_indexurl: str | None = None,
        pip_packages: Sequence[str] | None = None,
        conda_packages: Sequence[str] | None = None,
        python_version: str = "",
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Return packages given as lists; `pin_sdk_version` has no effect, because no SDK of Azure is installed."""
        dependencies = CondaDependencies()
        dependencies.set_python_version(python_version)
        dependencies.set_pip_index_url(pip_indexurl or "")
        for package in conda_packages or ():
            dependencies.add_conda_package(package)
        for package in pip_packages or ():
            dependencies.add_pip_package(package)
        return dependencies

    def add_conda_package(self, conda_package: str) -> None:
        """Add a package in conda's notation; it replaces one of the same name."""
        match = re.fullmatch(r"python\s*(?:=|==|>=|~=)?\s*([0-9.]*)\*?", conda_package.strip())
        if match:
            self._python_version = match[1].strip(".")
        else:
            self._conda = _replaced(self._conda, conda_package)

    def add_pip_package(self, pip_package: str) -> None:
        """Add a requirement in pip's notation; it replaces one of the same name."""
        self._pip = _replaced(self._pip, pip_package)

    def add_channel(self, channel: str) -> None:
        """Add a conda channel."""
        if channel not in self._channels:
            self._channels.append(channel)

    def remove_conda_package(self, conda_package: str) -> None:
        """Remove a package by name."""
        self._conda = [each for each in self._conda if requirement_name(each) != requirement_name(conda_package)]

    def remove_pip_package(self, pip_package: str) -> None:
        """Remove a requirement by name."""
        self._pip = [each for each in self._pip if requirement_name(each) != requirement_name(pip_package)]

    def set_python_version(self, version: str) -> None:
        """Set the version of Python, such as 3.11."""
        self._python_version = version

    def set_pip_index_url(self, index_url: str) -> None:
        """Set the package index for pip."""
        self._pip_index_url = index_url

    @property
    def python_version(self) -> str:
        """Version of Python; empty: that of the building machine."""
        return self._python_version

    @property
    def conda_packages(self) -> Iterable[str]:
        """Conda packages in their order."""
        return tuple(self._conda)

    @property
    def pip_packages(self) -> Iterable[str]:
        """Pip requirements in their order."""
        return tuple(self._pip)

    @property
    def conda_channels(self) -> Iterable[str]:
        """Channels in their order."""
        return tuple(self._channels)

    @property
    def pip_index_url(self) -> str:
        """Package index for pip; empty: the configured one."""
        return self._pip_index_url

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the conda environment file."""
        pip = [f"--index-url={self._pip_index_url}"] if self._pip_index_url else []
        dependencies: list[Any] = [f"python={self._python_version}"] if self._python_version else []
        dependencies += self._conda
        if self._pip:
            dependencies.append({"pip": pip + self._pip})
        return {
            "name": "project_environment",
            "channels": list(self._channels or DEFAULT_CHANNELS),
            "dependencies": dependencies,
        }

    def serialize_to_string(self) -> str:
        """Return the conda environment file as text."""
        return str(yaml.safe_dump(self.as_dict(), sort_keys=False))

    def save_to_file(self, base_directory: str | os.PathLike[str], conda_file_path: str | None = None) -> str:
        """Write the conda environment file into a folder; return its name there."""
        name = conda_file_path or CONDA_FILE
        write_atomically(Path(base_directory) / name, self.serialize_to_string().encode())
        return name

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the conda environment file to a path; return the path."""
        target = Path(path or CONDA_FILE)
        write_atomically(target, self.serialize_to_string().encode())
        return str(target)


def _replaced(packages: list[str], package: str) -> list[str]:
    return [each for each in packages if requirement_name(each) != requirement_name(package)] + [package.strip()]


def requirement_name(package: str) -> str:
    """Return the comparable name in a requirement (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s=<>!~\[;@]", package.strip(), maxsplit=1)[0]).lower()
