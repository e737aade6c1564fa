"""The reported properties of `$edgeAgent`, and the patch from one report to the next. Pure functions.

Source of the form: "Properties of the IoT Edge agent and IoT Edge hub module twins" (learn.microsoft.com).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edgewright import __version__
from edgewright.iotedge.runtime.deployment import Code, Deployment, ModuleSpec
from edgewright.iotedge.runtime.rules import Observed, Restarts, State, state_of

NEVER = "0001-01-01T00:00:00Z"
_MAX_TEXT = 512
"""Characters of a description; a twin's section has at most 32 KiB."""
HUB_TEXT = "not run by edgewright: modules connect to the hub itself"


@dataclass(frozen=True, slots=True)
class Status:
    """The outcome of the last deployment."""

    code: Code = Code.SUCCESS
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that a report shows."""

    status: Status
    desired_version: int
    platform: Mapping[str, str]
    deployment: Deployment | None = None
    observed: Mapping[str, Observed] = field(default_factory=dict)
    restarts: Mapping[str, Restarts] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    started_at: datetime | None = None


def report(situation: Situation) -> dict[str, Any]:
    """Return the reported properties."""
    deployment = situation.deployment
    return {
        "schemaVersion": "1.1",
        "version": {"version": f"edgewright {__version__}", "build": "", "commit": ""},
        "lastDesiredVersion": situation.desired_version,
        "lastDesiredStatus": {"code": int(situation.status.code), "description": situation.status.description[:_MAX_TEXT]},
        "runtime": {"type": "docker", "platform": dict(situation.platform)},
        "systemModules": _system_modules(situation),
        "modules": {} if deployment is None else {each.name: _module(each, situation) for each in deployment.modules},
    }


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch of RFC 7396 that makes `after` from `before`; null deletes a property."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        previous = before.get(name)
        if isinstance(value, Mapping) and isinstance(previous, Mapping):
            if below := difference(previous, value):
                patch[name] = below
        elif value != previous or name not in before:
            patch[name] = value
    return patch


def _module(spec: ModuleSpec, situation: Situation) -> dict[str, Any]:
    observed = situation.observed.get(spec.name)
    restarts = situation.restarts.get(spec.name, Restarts())
    state = state_of(spec, observed, restarts)
    failure = situation.failures.get(spec.name, "")
    shown = {
        "type": "docker",
        "status": "running" if spec.is_running else "stopped",
        "restartPolicy": spec.restart.value,
        "imagePullPolicy": "on-create" if spec.pulls else "never",
        "startupOrder": spec.start_order,
        "settings": {**spec.document["settings"], "imageHash": "" if observed is None else observed.image_hash},
        "runtimeStatus": state.value,
        "statusDescription": (failure or _text(state, observed))[:_MAX_TEXT],
        "exitCode": 0 if observed is None else observed.exit_code,
        "restartCount": restarts.count,
        "lastStartTimeUtc": _time(None if observed is None else observed.started_at),
        "lastExitTimeUtc": _time(None if observed is None else observed.ended_at),
        "lastRestartTimeUtc": _time(restarts.last_at),
    }
    if "version" in spec.document:
        shown["version"] = spec.document["version"]
    if "env" in spec.document:
        shown["env"] = spec.document["env"]
    return shown


def _system_modules(situation: Situation) -> dict[str, Any]:
    documents = {} if situation.deployment is None else situation.deployment.system_modules
    agent = {
        "type": "docker",
        "runtimeStatus": State.RUNNING.value if situation.status.code is not Code.UNKNOWN else State.STOPPED.value,
        "statusDescription": "played by edgewright",
        "exitCode": 0,
        "lastStartTimeUtc": _time(situation.started_at),
        "lastExitTimeUtc": NEVER,
        "imagePullPolicy": "on-create",
        "settings": documents.get("edgeAgent", {}).get("settings", {}),
    }
    if "edgeHub" not in documents:
        return {"edgeAgent": agent}
    hub = {
        **{key: documents["edgeHub"][key] for key in ("type", "status", "restartPolicy", "settings")},
        "runtimeStatus": State.UNKNOWN.value,
        "statusDescription": HUB_TEXT,
        "exitCode": 0,
        "restartCount": 0,
    }
    return {"edgeAgent": agent, "edgeHub": hub}


def _text(state: State, observed: Observed | None) -> str:
    if observed is None:
        return "no container"
    if state in (State.RUNNING, State.UNHEALTHY) or not observed.was_started:
        return state.value
    return f"ended with exit code {observed.exit_code}"


def _time(instant: datetime | None) -> str:
    return NEVER if instant is None else instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
