"""The manifest that a device really gets: its base deployment and the layered ones over it, in the order of their priorities.

Rules: Microsoft's documentation "Understand IoT Edge automatic deployments". Of two layers that set the same property, the one
with the higher priority wins. A layer's priority must be higher than that of the base.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from edgewright.errors import BadInputError
from edgewright.iotedge.validation import AGENT, DESIRED, HUB, content_of, faults_of, is_layered


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layered manifest with its name and priority."""

    name: str
    priority: int
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The combined manifest, and who set what."""

    manifest: dict[str, Any]
    origins: dict[str, tuple[str, ...]]
    """By module, route or property (as modules/camera): the manifests that set it, the one that holds last."""


def effective(base: dict[str, Any], layers: list[Layer], *, base_name: str = "base", base_priority: int = 0) -> Effective:
    """Combine a base and its layers.

    Raises:
        BadInputError: the base is layered, a layer is not, its priority is too low, or the result has faults.
    """
    if is_layered(base):
        raise BadInputError(f"{base_name} must be a standard manifest, which layers need as their base, but it is layered")
    manifest = copy.deepcopy(base)
    origins: dict[str, tuple[str, ...]] = {}
    for name, twin in content_of(manifest).items():
        part = {AGENT: "modules", HUB: "routes"}.get(name)
        inner = twin.get(DESIRED, {}) if isinstance(twin, dict) else {}
        keys = inner.get(part, {}) if part else inner
        origins.update({f"{part or f'twins/{name}'}/{key}": (base_name,) for key in keys})
    for layer in sorted(layers, key=lambda one: one.priority):
        if not is_layered(layer.manifest):
            raise BadInputError(
                f"{layer.name} must be a layered manifest, with keys such as {DESIRED}.modules.NAME, but it is a standard one"
            )
        if layer.priority <= base_priority:
            raise BadInputError(
                f"the priority of {layer.name} must be above {base_priority}, that of {base_name}, not {layer.priority}"
            )
        for name, twin in content_of(layer.manifest).items():
            for key, value in twin.items():
                place = _set(content_of(manifest), name, key, copy.deepcopy(value))
                origins[place] = (*origins.get(place, ()), layer.name)
    faults = faults_of(manifest)
    if faults:
        raise BadInputError(f"the combined manifest has a fault at {faults[0]}")
    return Effective(manifest=manifest, origins=origins)


def _set(content: dict[str, Any], name: str, key: str, value: Any) -> str:
    """Set one property of a layer, whose key is a path with dots; return the place as `origins` names it."""
    twin = content.setdefault(name, {})
    if key == DESIRED:
        twin[DESIRED] = value
        return f"twins/{name}"
    path = key.removeprefix(f"{DESIRED}.").split(".")
    at = twin.setdefault(DESIRED, {})
    for step in path[:-1]:
        at = at.setdefault(step, {})
        if not isinstance(at, dict):
            raise BadInputError(f"cannot set {key} of {name}: {step} is no object there")
    at[path[-1]] = value
    return "/".join(path) if name in (AGENT, HUB) else "/".join(["twins", name, *path])
