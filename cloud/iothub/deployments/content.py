"""The effective content of several configurations that target one device or module. Pure functions.

A setting is a path below the desired properties. Among configurations that set the same path, the one with the higher priority
decides, among equal ones the newer.

Deployments to IoT Edge devices have two kinds: a base contains the whole desired properties of `$edgeAgent`, and the highest one
decides; layered ones add paths or modules to a base of lower priority. Source: "Understand IoT Edge automatic deployments for
single devices or at scale" (learn.microsoft.com/azure/iot-edge/module-deployment-monitoring).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from cloud.iothub.refusal import RefusalError

DESIRED = "properties.desired"
AGENT, HUB = "$edgeAgent", "$edgeHub"
KINDS = ("deviceContent", "moduleContent", "modulesContent")

Json = dict[str, Any]


def check(content: object) -> str:
    """Return the kind of a configuration's content; raise `RefusalError` if it has none or several, or a key is invalid."""
    kinds = [kind for kind in KINDS if isinstance(content, Mapping) and content.get(kind)]
    if not isinstance(content, Mapping) or len(kinds) != 1:
        raise _invalid(f"content must have one of {', '.join(KINDS)}")
    modules = content["modulesContent"].values() if kinds[0] == "modulesContent" else [content[kinds[0]]]
    for settings in modules:
        if not isinstance(settings, Mapping):
            raise _invalid(f"{kinds[0]} must be an object of settings")
        for key in settings:
            if key != DESIRED and not key.startswith(f"{DESIRED}."):
                raise _invalid(f"a setting must begin with {DESIRED}, not {key[:80]!r}")
    return kinds[0]


def check_manifest(content: object) -> Mapping[str, Mapping[str, Any]]:
    """Return the modules of a manifest for one IoT Edge device; raise `RefusalError` unless it is complete."""
    if check(content) != "modulesContent" or not isinstance(content, Mapping):
        raise _invalid("a manifest for a device must have modulesContent")
    modules: Mapping[str, Mapping[str, Any]] = content["modulesContent"]
    for name in (AGENT, HUB):
        if DESIRED not in modules.get(name, {}):
            raise _invalid(f"a manifest must have {DESIRED} of {name}")
    return modules


def settings_of(contents: Sequence[Mapping[str, Any]]) -> Json:
    """Return the patch of desired properties that configurations make, from the lowest priority to the highest."""
    patch: Json = {}
    for settings in contents:
        _apply(patch, settings)
    return patch


def manifest_of(contents: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Json]:
    """Return the desired properties of each module, from the lowest priority to the highest; empty without a base."""
    bases = [index for index, modules in enumerate(contents) if DESIRED in modules.get(AGENT, {})]
    if not bases:
        return {}
    manifest: dict[str, Json] = {}
    for modules in contents[bases[-1] :]:
        for name, settings in modules.items():
            _apply(manifest.setdefault(name, {}), settings)
    return manifest


def _apply(target: Json, settings: Mapping[str, Any]) -> None:
    """Set paths in `target`; the whole desired properties replace it."""
    if DESIRED in settings:
        target.clear()
        target.update(copy.deepcopy(settings[DESIRED]))
    for key, value in settings.items():
        if key == DESIRED:
            continue
        *parents, last = key.removeprefix(f"{DESIRED}.").split(".")
        below = target
        for name in parents:
            if not isinstance(below.get(name), dict):
                below[name] = {}
            below = below[name]
        below[last] = copy.deepcopy(value)


def _invalid(message: str) -> RefusalError:
    return RefusalError(400, "InvalidConfigurationContent", message)
