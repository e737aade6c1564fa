"""Find a hardware profile: a shipped one by name, or your own by path.

Profiles are read strictly, because silently ignoring a misspelt field would put the wrong variant on a fleet. An unknown field,
a wrong type or an impossible value raises `ProfileError` with the file and the field.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from edgewright.contracts import wire
from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError, ProfileError
from hardware_profiles.hardware_profile import HardwareProfile, Limits
from hardware_profiles.npu_profile import NpuProfile

SUFFIX = ".toml"

_TABLES: dict[str, type[Any]] = {"limits": Limits, "npu": NpuProfile}


@functools.cache
def shipped_profiles() -> tuple[HardwareProfile, ...]:
    """Return the profiles that come with edgewright, sorted by name."""
    folder = resources.files("hardware_profiles").joinpath("profiles")
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(SUFFIX)), key=lambda entry: entry.name.removesuffix(SUFFIX)
    )
    return tuple(parse_profile(entry.read_text(encoding="utf-8"), where=entry.name) for entry in files)


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Return a shipped profile by name, or the one in a TOML file; a name with a slash or `.toml` is a path.

    Raises:
        NotFoundError: there is no profile of that name (the message lists the nearest ones), or no such file.
        ProfileError: the file is not a valid profile.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(SUFFIX):
        return read_profile(Path(text))
    profiles = {profile.name: profile for profile in shipped_profiles()}
    if text not in profiles:
        raise NotFoundError(f"no hardware profile is called {text!r}{nearest(text, profiles)}, or the path of a {SUFFIX} file")
    return profiles[text]


def read_profile(path: Path) -> HardwareProfile:
    """Read and check one TOML file."""
    try:
        return parse_profile(path.read_text(encoding="utf-8"), where=str(path))
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: a profile must be TOML in UTF-8: {error}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise NotFoundError(f"{path}: the profile cannot be read: {error.strerror}") from error


def parse_profile(text: str, *, where: str) -> HardwareProfile:
    """Parse and check the TOML text of a profile; every error message starts with `where`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: a profile must be TOML: {error}") from error
    _check_fields(table, HardwareProfile, where, "")
    if isinstance(table.get("npu"), dict):
        table["npu"].setdefault("name", table["name"])
    for name, kind in _TABLES.items():
        if isinstance(table.get(name), dict):
            _check_fields(table[name], kind, where, f"{name}.")
    return wire.convert(table, HardwareProfile, what=where, error=ProfileError)


def _check_fields(table: dict[str, Any], kind: type[Any], where: str, prefix: str) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(table) - names)
    if unknown:
        raise ProfileError(f"{where}: unknown field {prefix}{unknown[0]}{nearest(unknown[0], names)}")
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in table]
    if missing:
        raise ProfileError(f"{where}: the field {prefix}{missing[0]} is missing; a profile must have {', '.join(required)}")
