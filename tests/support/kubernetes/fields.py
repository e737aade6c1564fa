"""Fields of an object and their managers, as server-side apply of Kubernetes keeps them.

A path is a tuple of elements in the notation of `fieldsV1`: `f:name` for a field, `k:{"name":"x"}` for an item of a list with
keys, `v:value` for a value of a set. Lists without keys, and maps that the schema calls atomic, are one leaf. Source: Kubernetes
documentation, "Server-Side Apply", and KEP-555.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.support.kubernetes.schemas import resolved

Path = tuple[str, ...]
_OF_THE_SERVER = {("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace")}


def paths_of(document: dict[str, Any], schema: dict[str, Any] | None) -> set[Path]:
    """Return the leaves of a document that a manager can own."""
    found: set[Path] = set()
    _collect(document, resolved(schema), (), found)
    return {path for path in found if path not in _OF_THE_SERVER and not _is_of_server(path)}


def _is_of_server(path: Path) -> bool:
    return path[0] == "f:metadata" and path[1:2] not in ((), ("f:labels",), ("f:annotations",), ("f:finalizers",))


def _collect(value: Any, schema: dict[str, Any], path: Path, found: set[Path]) -> None:
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        for name, child in value.items():
            _collect(child, _child(schema, name), (*path, f"f:{name}"), found)
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "map":
        items = resolved(schema.get("items"))
        for item in value:
            key = (*path, key_of(item, schema))
            found.add(key)
            for name, child in item.items():
                _collect(child, _child(items, name), (*key, f"f:{name}"), found)
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
        found.update((*path, f"v:{json.dumps(item)}") for item in value)
    else:
        found.add(path)


def _child(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return resolved(schema.get("properties", {}).get(name) or _schema_of_any(schema))


def _schema_of_any(schema: dict[str, Any]) -> dict[str, Any]:
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, dict) else {}


def key_of(item: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the element of an item in a list with keys; a key that is missing has the default of the schema."""
    properties = resolved(schema.get("items")).get("properties", {})
    keys = {name: item.get(name, resolved(properties.get(name)).get("default")) for name in schema["x-kubernetes-list-map-keys"]}
    return f"k:{json.dumps({name: value for name, value in sorted(keys.items()) if value is not None}, separators=(',', ':'))}"


def value_at(document: Any, path: Path, schema: dict[str, Any]) -> Any:
    """Return the value of a path, or None."""
    schema = resolved(schema)
    for element in path:
        kind, text = element.split(":", 1)
        if kind == "v":
            return json.loads(text) if json.loads(text) in (document or []) else None
        if kind == "k":
            document = next((each for each in document or [] if key_of(each, schema) == element), None)
            schema = resolved(schema.get("items"))
            continue
        document = document.get(text) if isinstance(document, dict) else None
        schema = _child(schema, text)
    return document


def is_item(path: Path) -> bool:
    """Return True for the item itself of a list with keys, which has no value of its own."""
    return path[-1].startswith("k:")


def merge(live: Any, applied: Any, schema: dict[str, Any]) -> Any:
    """Return the live value with the applied one merged into it."""
    schema = resolved(schema)
    if isinstance(applied, dict) and isinstance(live, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        result = dict(live)
        for name, value in applied.items():
            result[name] = merge(live[name], value, _child(schema, name)) if name in live else copy.deepcopy(value)
        return result
    if isinstance(applied, list) and isinstance(live, list) and schema.get("x-kubernetes-list-type") == "map":
        items = {key_of(each, schema): each for each in live}
        for each in applied:
            key = key_of(each, schema)
            items[key] = merge(items[key], each, resolved(schema.get("items"))) if key in items else copy.deepcopy(each)
        return list(items.values())
    if isinstance(applied, list) and isinstance(live, list) and schema.get("x-kubernetes-list-type") == "set":
        return [*live, *(each for each in applied if each not in live)]
    return copy.deepcopy(applied)


def remove(document: Any, path: Path, schema: dict[str, Any]) -> None:
    """Remove a leaf, then the maps and lists that are empty without it."""
    schema = resolved(schema)
    element = path[0]
    kind, text = element.split(":", 1)
    if kind == "f":
        if not isinstance(document, dict) or text not in document:
            return
        if len(path) > 1:
            remove(document[text], path[1:], _child(schema, text))
        if len(path) == 1 or document[text] in ({}, []):
            del document[text]
    elif isinstance(document, list):
        for item in list(document):
            if kind == "v" and item == json.loads(text):
                document.remove(item)
            elif kind == "k" and key_of(item, schema) == element:
                if len(path) == 1:
                    document.remove(item)
                else:
                    remove(item, path[1:], resolved(schema.get("items")))


def encoded(paths: set[Path]) -> dict[str, Any]:
    """Return `fieldsV1` of a set of paths."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        if is_item(path):
            node["."] = {}
    return tree


def shown(path: Path) -> str:
    """Return a path as the messages of the API server write it, as in `.spec.ports[port=80,protocol="TCP"].name`."""
    text = ""
    for element in path:
        kind, rest = element.split(":", 1)
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + ",".join(f"{name}={json.dumps(value)}" for name, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text
