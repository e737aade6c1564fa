"""Check a deployment manifest of IoT Edge before a hub or a device rejects it.

The rules are those of the public schemas (schemastore.org: azure-iot-edge-deployment-2.0, azure-iot-edgeagent-deployment-1.1,
azure-iot-edgehub-deployment-1.2), which the tests compare with these, and what the schemas cannot say: the pieces of
createOptions, the syntax of routes, modules that a route names, keys that a twin cannot hold, sizes, and layered deployments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edgewright.errors import BadInputError
from edgewright.iotedge import create_options
from edgewright.iotedge.routes import parse_route
from edgewright.iotedge.shapes import Check, Fault, anything, json_object, mapping, one_of, record, text, whole_number

AGENT, HUB = "$edgeAgent", "$edgeHub"
DESIRED = "properties.desired"
RUNTIME = "1.6"
OLD_RUNTIMES = ("1.5",)
"""Still accepted, with a warning."""
MAX_TWIN_BYTES = 32 * 1024
"""Size of the desired properties of a module's twin (Microsoft's documentation "IoT Hub quotas and throttling")."""
MAX_TWIN_DEPTH = 10
_UINT32 = 2**32 - 1
_MODULE_NAME = "[a-zA-Z0-9_-]+"
_ROUTE_NAME = r"[^.$# ]+"
_ENVIRONMENT_NAME = r"[^+#$\s.]+"


def faults_of(manifest: Any) -> list[Fault]:
    """Return every fault of a standard or layered manifest, in its order."""
    if isinstance(manifest, dict) and set(manifest) == {"content"}:  # the form that the hub's REST interface takes
        manifest = manifest["content"]
    if not isinstance(manifest, dict) or not isinstance(manifest.get("modulesContent"), dict):
        return [Fault("modulesContent", "must be an object that holds the twins of the modules")]
    extra = [Fault(key, "is not allowed beside modulesContent") for key in manifest if key != "modulesContent"]
    content = manifest["modulesContent"]
    found = _layered(content) if is_layered(manifest) else _standard(content)
    return [*extra, *found, *_twins(content)]


def agent_faults_of(desired: Any) -> list[Fault]:
    """Return every fault of the desired properties of `$edgeAgent` except those of its schemaVersion."""
    return list(_AGENT_OF_ANY_VERSION(f"modulesContent/{AGENT}/{DESIRED}", desired))


def warnings_of(manifest: dict[str, Any]) -> list[str]:
    """Return what works but will not for long, of a manifest without faults."""
    images = [str(settings.get("image", "")) for settings in _settings(_desired(content_of(manifest), AGENT))]
    return [
        f"{image} is of IoT Edge {version}, which {RUNTIME} replaces: use it for new devices"
        for image in images
        for version in OLD_RUNTIMES
        if image.startswith("mcr.microsoft.com/azureiotedge-") and image.rpartition(":")[2].startswith(version)
    ]


def is_layered(manifest: dict[str, Any]) -> bool:
    """Return True if a manifest only adds to others: one of its keys goes into the desired properties of a twin."""
    twins = content_of(manifest).values()
    return any(key.startswith(f"{DESIRED}.") for twin in twins if isinstance(twin, dict) for key in twin)


def content_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the twins by module."""
    inner = manifest.get("content", manifest)
    content = inner.get("modulesContent") if isinstance(inner, dict) else None
    return content if isinstance(content, dict) else {}


def _standard(content: dict[str, Any]) -> Iterator[Fault]:
    for name, check in ((AGENT, _AGENT), (HUB, _HUB)):
        if name in content:
            yield from record({DESIRED: check})(f"modulesContent/{name}", content[name])
        else:
            yield Fault("modulesContent", f"must have {name}, or keys such as {DESIRED}.modules.NAME if it is a layered manifest")
    twins = record({DESIRED: json_object})
    yield from mapping(_MODULE_NAME, "letters, digits, _ or -", twins, without=(AGENT, HUB))("modulesContent", content)
    yield from _route_targets(content)


def _layered(content: dict[str, Any]) -> Iterator[Fault]:
    for name, twin in content.items():
        path = f"modulesContent/{name}"
        if not isinstance(twin, dict):
            yield from json_object(path, twin)
            continue
        for key, value in twin.items():
            yield from _layered_property(name, f"{path}/{key}", key, value)


def _layered_property(name: str, path: str, key: str, value: Any) -> Iterator[Fault]:
    if name not in (AGENT, HUB):
        if key != DESIRED and not key.startswith(f"{DESIRED}."):
            yield Fault(path, f"must be {DESIRED} or begin with {DESIRED}.")
        return
    part, inner, pattern = ("modules", _MODULE, _MODULE_NAME) if name == AGENT else ("routes", _route, _ROUTE_NAME)
    prefix = f"{DESIRED}.{part}."
    if not key.startswith(prefix):
        yield Fault(path, f"must begin with {prefix} in a layered manifest, which leaves the rest to the base")
        return
    yield from mapping(pattern, "a name", inner)(path.removesuffix(key) + prefix.rstrip("."), {key.removeprefix(prefix): value})


def _route(path: str, value: Any) -> Iterator[Fault]:
    if isinstance(value, dict):
        form = record({"route": text()}, {"priority": whole_number(0, 9), "timeToLiveSecs": whole_number(0, _UINT32)})
        yield from form(path, value)
        value = value.get("route")
    elif not isinstance(value, str):
        yield from text(expected="a route, or an object with a route")(path, value)
    if isinstance(value, str):
        try:
            parse_route(value)
        except BadInputError as error:
            yield Fault(path, str(error))


def _route_targets(content: dict[str, Any]) -> Iterator[Fault]:
    """Yield the routes that name a module which the manifest does not have."""
    modules, routes = _desired(content, AGENT).get("modules"), _desired(content, HUB).get("routes")
    if not isinstance(modules, dict):
        return
    for name, value in routes.items() if isinstance(routes, dict) else ():
        route = value.get("route") if isinstance(value, dict) else value
        try:
            named = parse_route(route).modules if isinstance(route, str) else ()
        except BadInputError:
            continue
        for module in named:
            if module not in modules:
                there = ", ".join(modules) or "none"
                yield Fault(
                    f"modulesContent/{HUB}/{DESIRED}/routes/{name}", f"names module {module}, but the modules are: {there}"
                )


def _versions(path: str, desired: Any) -> Iterator[Fault]:
    """Yield what needs a later schemaVersion than the one stated."""
    if not isinstance(desired, dict) or desired.get("schemaVersion") != "1.0":
        return
    for group in ("systemModules", "modules"):
        modules = desired.get(group)
        for name, module in modules.items() if isinstance(modules, dict) else ():
            if isinstance(module, dict) and "startupOrder" in module:
                yield Fault(f"{path}/{group}/{name}/startupOrder", 'needs schemaVersion "1.1"')
    routes = desired.get("routes")
    for name, route in routes.items() if isinstance(routes, dict) else ():
        if isinstance(route, dict):
            yield Fault(f"{path}/routes/{name}", 'a route with a priority or time to live needs schemaVersion "1.1"')


def _twins(content: dict[str, Any]) -> Iterator[Fault]:
    for name, twin in content.items():
        for key, value in twin.items() if isinstance(twin, dict) else ():
            path = f"modulesContent/{name}/{key}"
            size = len(json.dumps(value, separators=(",", ":")).encode())
            if size > MAX_TWIN_BYTES:
                yield Fault(path, f"must have at most {MAX_TWIN_BYTES} bytes as JSON, not {size}")
            yield from _twin_value(path, value, 1)


def _twin_value(path: str, value: Any, depth: int) -> Iterator[Fault]:
    if not isinstance(value, dict):
        return
    if depth > MAX_TWIN_DEPTH:
        yield Fault(path, f"must be nested at most {MAX_TWIN_DEPTH} deep")
        return
    for key, inner in value.items():
        if not key or any(character in ".$ " or ord(character) < 32 for character in key):
            yield Fault(f"{path}/{key}", "the key of a twin must have no dot, dollar sign, space or control character")
        yield from _twin_value(f"{path}/{key}", inner, depth + 1)


def _desired(content: dict[str, Any], name: str) -> dict[str, Any]:
    twin = content.get(name)
    desired = twin.get(DESIRED) if isinstance(twin, dict) else None
    return desired if isinstance(desired, dict) else {}


def _settings(agent: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in ("systemModules", "modules"):
        modules = agent.get(group)
        for module in modules.values() if isinstance(modules, dict) else ():
            if isinstance(module, dict) and isinstance(module.get("settings"), dict):
                yield module["settings"]


def _module_settings(path: str, value: Any) -> Iterator[Fault]:
    options = {key: anything for key in value if create_options.KEY.fullmatch(key)} if isinstance(value, dict) else {}
    yield from record({"image": text(r"\S+", "the reference of an image")}, options)(path, value)
    yield from create_options.check(path, value)


def _environment_value(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str | int | float):
        yield Fault(path, "must be a string, a number, true or false")


_DOCKER = one_of("docker")
_STATUS = one_of("running", "stopped")
_RESTART = one_of("never", "on-failure", "on-unhealthy", "always")
_ENVIRONMENT = mapping(_ENVIRONMENT_NAME, "a name without +, #, $, dot or space", record({"value": _environment_value}))
_PULL = one_of("never", "on-create")
_ORDER = whole_number(0, _UINT32)
_MODULE = record(
    {"type": _DOCKER, "status": _STATUS, "restartPolicy": _RESTART, "settings": _module_settings},
    {"version": text(), "env": _ENVIRONMENT, "imagePullPolicy": _PULL, "startupOrder": _ORDER},
)
_CREDENTIALS = record({"username": text(), "password": text(), "address": text(r"\S+", "a host name without spaces")})
_RUNTIME_SETTINGS = record(
    {},
    {
        "minDockerVersion": text(),
        "loggingOptions": text(),
        "registryCredentials": mapping(r"[^.$# ]+", "a name without dot, $, # or space", _CREDENTIALS),
    },
)
_SYSTEM = record(
    {
        "edgeAgent": record({"type": _DOCKER, "settings": _module_settings}, {"env": _ENVIRONMENT, "imagePullPolicy": _PULL}),
        "edgeHub": record(
            {"type": _DOCKER, "settings": _module_settings, "status": _STATUS, "restartPolicy": _RESTART},
            {"env": _ENVIRONMENT, "imagePullPolicy": _PULL, "startupOrder": _ORDER},
        ),
    }
)
_AGENT_PARTS: dict[str, Check] = {
    "runtime": record({"type": _DOCKER, "settings": _RUNTIME_SETTINGS}),
    "systemModules": _SYSTEM,
    "modules": mapping(_MODULE_NAME, "letters, digits, _ or -", _MODULE),
}
_AGENT: Check = record({"schemaVersion": one_of("1.0", "1.1"), **_AGENT_PARTS}, also=_versions)
_AGENT_OF_ANY_VERSION: Check = record(_AGENT_PARTS, {"schemaVersion": anything})
_HUB: Check = record(
    {
        "schemaVersion": one_of("1.0", "1.1", "1.2"),
        "routes": mapping(_ROUTE_NAME, "a name without dot, $, # or space", _route),
    },
    {"storeAndForwardConfiguration": record({"timeToLiveSecs": whole_number(0, _UINT32)}), "mqttBroker": json_object},
    also=_versions,
)
