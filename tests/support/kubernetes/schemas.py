"""The published schemas of Kubernetes: each object is checked, and a list's keys are read, by them.

The schemas are those of the package kubernetes-validate, which derives them from the OpenAPI document of Kubernetes.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

VERSION = "1.34"
_FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"


@cache
def _definitions() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((_FOLDER / "_definitions.json").read_text("utf-8"))
    return loaded


@cache
def schema_of(api_version: str, kind: str) -> dict[str, Any] | None:
    """Return the schema of a kind, or None for a kind of another project."""
    group, _, version = api_version.rpartition("/")
    path = _FOLDER / f"{kind.lower()}-{'-'.join(filter(None, [group.split('.')[0], version]))}.json"
    if not path.exists():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


@cache
def _validator(api_version: str, kind: str) -> Any:
    registry: Any = Registry().with_resource(
        _definitions()["$id"], Resource.from_contents(_definitions(), default_specification=DRAFT202012)
    )
    return jsonschema.Draft202012Validator(schema_of(api_version, kind), registry=registry)


def fault_of(document: dict[str, Any]) -> str | None:
    """Return the first field that the published schema refuses, or None."""
    if schema_of(document["apiVersion"], document["kind"]) is None:
        return None
    for error in _validator(document["apiVersion"], document["kind"]).iter_errors(document):
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def resolved(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return a schema in place of a reference to it; empty for an unknown one."""
    if schema is None:
        return {}
    reference = str(schema.get("$ref", ""))
    if not reference:
        return schema
    target = _definitions()["$defs"][reference.rpartition("/")[2]]
    return {**target, **{name: value for name, value in schema.items() if name.startswith("x-kubernetes")}}
