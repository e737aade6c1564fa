"""Write an image as a folder that `docker build` accepts: a Dockerfile, and the layers as tars that it adds.

The folder needs no registry: the Dockerfile begins with an empty image. A line may be added to it, such as RUN or COPY.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgewright.contracts import wire
from edgewright.contracts.environments.images import COMPRESSED_LAYER_TYPE, ImageRecord
from edgewright.contracts.files import staging_beside
from edgewright.contracts.oci import Index, Manifest, check_bytes
from edgewright.errors import BadInputError, ConflictError, OperationError
from edgewright.sdk.connection import Connection
from edgewright.sdk.image_push import fetch_blob, fetch_document

_NANOSECONDS = 1_000_000_000


def save_context(connection: Connection, record: ImageRecord, folder: Path) -> Path:
    """Write the folder, which must not exist yet, and return the path of its Dockerfile.

    Raises:
        ConflictError: the image was not built.
        BadInputError: the folder exists.
    """
    if record.index is None:
        raise ConflictError(f"image {record} must be built before it is saved, but its build is {record.state}")
    if folder.exists() or folder.is_symlink():
        raise BadInputError(f"{folder} must not exist yet: choose another folder, or remove it")
    index = wire.decode(fetch_document(connection, record.name, record.index), Index, what="the index", error=OperationError)
    raw = fetch_document(connection, record.name, index.manifests[0])
    manifest = wire.decode(raw, Manifest, what="a manifest", error=OperationError)
    config_raw = connection.request("GET", f"/v2/{record.name}/blobs/{manifest.config.digest}").body
    config = json.loads(check_bytes(config_raw, manifest.config))
    names = []
    with staging_beside(folder) as staging:
        for number, layer in enumerate(manifest.layers, 1):
            names.append(f"layer-{number:02}.tar{'.gz' if layer.mediaType == COMPRESSED_LAYER_TYPE else ''}")
            with (staging / names[-1]).open("w+b") as stream:
                fetch_blob(connection, record.name, layer, stream)
        (staging / "Dockerfile").write_text(_dockerfile(names, config["config"]), encoding="utf-8")
        os.rename(staging, folder)  # noqa: PTH104 - a folder that appears meanwhile is not replaced
    return folder / "Dockerfile"


def _dockerfile(layers: list[str], config: dict[str, Any]) -> str:
    lines = ["FROM scratch", *(f"ADD {name} /" for name in layers)]
    lines += [f"ENV {name}={_quoted(value)}" for name, _, value in (text.partition("=") for text in config["Env"])]
    lines += [f"LABEL {_quoted(name)}={_quoted(value)}" for name, value in sorted(config["Labels"].items())]
    lines += [f"WORKDIR {config['WorkingDir']}", f"USER {config['User']}", f"STOPSIGNAL {config['StopSignal']}"]
    lines += [f"EXPOSE {port}" for port in config["ExposedPorts"]]
    if "Healthcheck" in config:
        lines.append(_health(config["Healthcheck"]))
    lines += [f"ENTRYPOINT {json.dumps(config['Entrypoint'])}"]
    lines += [f"CMD {json.dumps(config['Cmd'])}"] if "Cmd" in config else []
    return "\n".join(lines) + "\n"


def _health(check: dict[str, Any]) -> str:
    times = (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod"))
    options = [f"--{option}={check[key] // _NANOSECONDS}s" for option, key in times]
    return f"HEALTHCHECK {' '.join(options)} --retries={check['Retries']} CMD {json.dumps(check['Test'][1:])}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
