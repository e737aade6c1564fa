"""Find the files of a registered model on this machine, as Azure's `Model.get_model_path` does.

In a service (AZUREML_MODEL_DIR is set): the folder of the service, and nothing else.
With a version: the cache `azureml-models/NAME/VERSION`, else a download to it.
Without a version: the newest version of the cloud, downloaded unless it is in the cache; without a cloud, the highest version in
the cache, then `./NAME`.

A cloud is asked if one is configured or embedded in the current folder; none is created. A scoring script that is served without
models asks no cloud unless its environment names one.

The result is the single file or folder in the version's folder. Several are an error, because one of them must be the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edgewright.errors import BadInputError, ConflictError, NotFoundError

CACHE = "azureml-models"
MODEL_DIR = "AZUREML_MODEL_DIR"
"""Environment variable with the folder of a service's models; unset for a script without models."""

Fetch = Callable[[int | None], Path]
"""Fetches a version (None: the newest) of the model into the cache, if it is not there, and returns the version's folder."""


def find_model_path(name: str, version: int | None, fetch: Fetch | None, environment: Mapping[str, str] | None = None) -> Path:
    """Return the path of a model's file or folder.

    Args:
        name: the name of the model.
        version: its version; None for the newest.
        fetch: downloads from the cloud; None if there is no cloud.
        environment: environment variables; default: those of the process.

    Raises:
        BadInputError: the version is not a whole number from 1.
        NotFoundError: the model is in none of the places.
        ConflictError: the version's folder has several entries.
    """
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise BadInputError(f"version must be a whole number from 1, not {version!r}")
    environment = os.environ if environment is None else environment
    served = environment.get(MODEL_DIR)
    if served:
        return _in_service(Path(served), name, version)
    if version is not None:
        folder = Path(CACHE) / name / str(version)
        return _single(folder if folder.is_dir() or fetch is None else fetch(version), name)
    if fetch is not None:
        return _single(fetch(None), name)
    return _local(Path(CACHE), name)


def _in_service(base: Path, name: str, version: int | None) -> Path:
    """Find a model below AZUREML_MODEL_DIR: the folder of one version, or a folder NAME/VERSION for each of several models."""
    if base.is_dir() and base.parent.name == name and version in (None, _number(base)):
        return _entry(base)
    versions = _versions(base / name)
    if versions and (version is None or version in versions):
        return _entry(versions[version or max(versions)])
    if version is None and (base / name).exists():
        return base / name
    wanted = name if version is None else f"{name}:{version}"
    raise NotFoundError(f"{MODEL_DIR} must hold the model {wanted}, but {base} does not: deploy the service with that model")


def _entry(folder: Path) -> Path:
    """Return the single entry of a folder in a service, or the folder if the model has several files."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 else folder


def _local(cache: Path, name: str) -> Path:
    versions = _versions(cache / name)
    if versions:
        return _single(versions[max(versions)], name)
    if Path(name).exists():
        return Path(name)
    raise NotFoundError(f"model {name} must be in {cache / name} or {name}, because no cloud is known here, but it is in neither")


def _versions(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    return {number: each for each in folder.iterdir() if (number := _number(each)) is not None}


def _number(folder: Path) -> int | None:
    return int(folder.name) if folder.name.isdecimal() and folder.is_dir() else None


def _single(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise NotFoundError(f"model {name} must be in {folder}, because no cloud is known here, but there is no such folder")
    entries = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    if len(entries) != 1:
        raise ConflictError(
            f"{folder} must hold one file or folder, the model {name}, but it has {len(entries)}: "
            f"{', '.join(entries[:5]) or 'none'}"
        )
    return folder / entries[0]
