"""Modules for tests of `iotedge run`: an image without files of its own, whose programs are those of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from edgewright.iotedge import create_options
from tests.support.docker_engine import DockerEngine

IMAGE = "edgewright-test/host-programs:1"
FOREVER = "trap 'exit 0' TERM; sleep 100000 & wait"


def load_image(engine: DockerEngine, folder: Path, *, architecture: str = "", name: str = IMAGE) -> None:
    """Load the image into the engine: links into /usr, which modules have as a volume."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for link in ("bin", "lib", "lib64", "sbin"):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
            archive.addfile(entry)
        for directory in ("usr", "tmp", "proc", "dev", "var", "root"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(entry)
    config = {
        "architecture": architecture or engine.run("version", "--format", "{{.Server.Arch}}"),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    contents = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    file = folder / "image.tar"
    with tarfile.open(file, "w") as archive:
        for path, raw in {
            "layer.tar": layer.getvalue(),
            "config.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(contents).encode(),
        }.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    engine.run("load", "--input", file)


def module(
    script: str = FOREVER, *, order: int | None = None, options: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a module that runs a shell script; `options` are added to its HostConfig."""
    host = {"Binds": ["/usr:/usr:ro"], "NetworkMode": "none", **(options or {})}
    settings = {"image": IMAGE, **create_options.split({"Cmd": ["/bin/sh", "-c", script], "HostConfig": host})}
    start = {} if order is None else {"startupOrder": order}
    return {
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "imagePullPolicy": "never",
        "settings": settings,
        **start,
        **changes,
    }


def python_module(python: Path, program: str) -> dict[str, Any]:
    """Return a module that runs a program with the interpreter of an environment of this machine, in this machine's network."""
    environment = python.parents[1].resolve()
    binds = [f"{path}:{path}:ro" for path in dict.fromkeys(("/usr", sys.base_prefix, str(environment)))]
    command = [str(environment / "bin" / "python"), "-c", program]
    document = module(options={"Binds": binds, "NetworkMode": "host"})
    options = {"Cmd": command, "HostConfig": {"Binds": binds, "NetworkMode": "host"}}
    document["settings"] = {"image": IMAGE, **create_options.split(options)}
    return document


def agent(**modules: dict[str, Any]) -> dict[str, Any]:
    """Return the desired properties of `$edgeAgent`."""
    system = {"type": "docker", "settings": {"image": "registry.example/azureiotedge-hub:1.6"}}
    return {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": "registry.example/azureiotedge-agent:1.6"}},
            "edgeHub": {**system, "status": "running", "restartPolicy": "always"},
        },
        "modules": modules,
    }


def manifest(desired: dict[str, Any]) -> dict[str, Any]:
    """Return a standard manifest with the desired properties of `$edgeAgent`."""
    hub = {"schemaVersion": "1.1", "routes": {"up": "FROM /messages/* INTO $upstream"}}
    return {"modulesContent": {"$edgeAgent": {"properties.desired": desired}, "$edgeHub": {"properties.desired": hub}}}


def write(file: Path, desired: dict[str, Any]) -> Path:
    """Write a manifest and return its file."""
    file.write_text(json.dumps(manifest(desired)))
    return file
