"""Find a profile: the shipped ones by name, your own by path.

A profile is read strictly, because a misspelt field that is silently ignored would put the wrong variant on a fleet: an unknown
field, a wrong type or an impossible value is a `ProfileError` that names the file and the field.
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
        NotFoundError: no such name (the nearest are told) or no such file.
        ProfileError: the file is no profile.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(SUFFIX):
        return read_profile(Path(text))
    known = {profile.name: profile for profile in shipped_profiles()}
    if text not in known:
        raise NotFoundError(f"no hardware profile is called {text!r}{nearest(text, known)}, or the path of a {SUFFIX} file")
    return known[text]


def read_profile(path: Path) -> HardwareProfile:
    """Read and check one TOML file."""
    try:
        return parse_profile(path.read_text(encoding="utf-8"), where=str(path))
    except UnicodeDecodeError as wrong:
        raise ProfileError(f"{path}: a profile must be TOML in UTF-8: {wrong}") from wrong
    except (FileNotFoundError, IsADirectoryError, PermissionError) as missing:
        raise NotFoundError(f"{path}: no profile can be read there: {missing.strerror}") from missing


def parse_profile(text: str, *, where: str) -> HardwareProfile:
    """Check TOML into a profile; `where` opens every error."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise ProfileError(f"{where}: a profile must be TOML: {wrong}") from wrong
    _check_fields(table, HardwareProfile, where, "")
    if isinstance(table.get("npu"), dict):
        table["npu"].setdefault("name", table["name"])
    for name, kind in _TABLES.items():
        if isinstance(table.get(name), dict):
            _check_fields(table[name], kind, where, f"{name}.")
    return wire.convert(table, HardwareProfile, what=where, error=ProfileError)


def _check_fields(table: dict[str, Any], kind: type[Any], where: str, prefix: str) -> None:
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise ProfileError(f"{where}: unknown field {prefix}{unknown[0]}{nearest(unknown[0], known)}")
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in table]
    if missing:
        raise ProfileError(f"{where}: the field {prefix}{missing[0]} is missing; a profile must have {', '.join(needed)}")
