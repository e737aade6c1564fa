"""`createOptions` of a module: the options of its container as a string, in pieces of at most 512 characters.

The options are the body of the Docker Engine API's ContainerCreate. The agent of IoT Edge joins `createOptions`,
`createOptions01` to `createOptions07`: the twin of IoT Hub limits the length of a string value, and Azure's tools split at 512
characters into at most 8 pieces (constant CREATE_OPTIONS_MAX_CHUNKS of the Azure IoT Edge tools for Visual Studio Code).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgewright.contracts.environments.images import KEYS_FILE, PORT
from edgewright.errors import BadInputError
from edgewright.iotedge.shapes import Fault

PIECE_CHARACTERS = 512
MAX_PIECES = 8
KEY = re.compile("create[oO]ptions([0-9]*)")
"""Keys of the pieces; `createoptions` is an old spelling that the agent still reads."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """Settings of a module's container; the defaults are as restrictive as our images allow."""

    port: int | None = 8080
    """TCP port of the host for the scoring port; None publishes none."""
    keys_folder: str = ""
    """Folder of the host with `keys.json`, mounted read-only; empty mounts none."""
    cpus: float | None = None
    memory_mib: int | None = None
    gpus: str = ""
    """`all`, or the ids of NVIDIA GPUs with commas between."""
    devices: tuple[str, ...] = ()
    """Paths of device nodes of the host, such as /dev/ttyUSB0."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise BadInputError(f"--port must be from 1 to 65535, not {self.port}")
        if self.cpus is not None and self.cpus <= 0:
            raise BadInputError(f"--cpus must be more than 0, not {self.cpus:g}")
        if self.memory_mib is not None and self.memory_mib < 6:  # the least that Docker accepts
            raise BadInputError(f"--memory-mib must be at least 6, not {self.memory_mib}")
        for path in self.devices:
            if not path.startswith("/dev/"):
                raise BadInputError(f"--device must be a path below /dev, not {path}")
        if self.keys_folder and not self.keys_folder.startswith("/"):
            raise BadInputError(f"--keys must be an absolute path on the device, not {self.keys_folder}")

    def to_document(self) -> dict[str, Any]:
        """Return the body of the engine's call (Docker Engine API, ContainerCreate)."""
        host: dict[str, Any] = {
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": ""},  # noqa: S108  inside the container
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        }
        document: dict[str, Any] = {"HostConfig": host}
        if self.port is not None:
            document["ExposedPorts"] = {f"{PORT}/tcp": {}}
            host["PortBindings"] = {f"{PORT}/tcp": [{"HostPort": str(self.port)}]}
        if self.keys_folder:
            host["Binds"] = [f"{self.keys_folder}:{KEYS_FILE.rpartition('/')[0]}:ro"]
        if self.cpus is not None:
            host["NanoCpus"] = round(self.cpus * 1e9)
        if self.memory_mib is not None:
            host["Memory"] = host["MemorySwap"] = self.memory_mib * _MIB  # equal: no swap
        if self.devices:
            host["Devices"] = [{"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"} for path in self.devices]
        if self.gpus:
            ids = {"Count": -1} if self.gpus == "all" else {"DeviceIDs": self.gpus.split(",")}
            host["DeviceRequests"] = [{"Driver": "nvidia", **ids, "Capabilities": [["gpu"]]}]
        return document


def split(document: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a module that hold `document`: `createOptions`, `createOptions01`, …

    Raises:
        BadInputError: the document is longer than eight pieces.
    """
    whole = json.dumps(document, separators=(",", ":"))
    pieces = [whole[start : start + PIECE_CHARACTERS] for start in range(0, len(whole), PIECE_CHARACTERS)]
    if len(pieces) > MAX_PIECES:
        limit = MAX_PIECES * PIECE_CHARACTERS
        raise BadInputError(f"createOptions must have at most {limit} characters, not {len(whole)}: give fewer options")
    return {_key(number): piece for number, piece in enumerate(pieces)}


def join(settings: dict[str, Any]) -> str:
    """Return the JSON that the pieces in the settings of a module hold; empty without one."""
    return "".join(str(settings[key]) for key in sorted(filter(KEY.fullmatch, settings), key=_number))


def check(path: str, settings: Any) -> Iterator[Fault]:
    """Yield the faults of the pieces in the settings of a module."""
    if not isinstance(settings, dict):
        return
    keys = sorted(filter(KEY.fullmatch, settings), key=_number)
    if any(not isinstance(settings[key], str) for key in keys):
        for key in keys:
            if not isinstance(settings[key], str):
                yield Fault(
                    f"{path}/{key}", "must be a string that holds JSON, not JSON itself: write it with escaped quotation marks"
                )
        return
    if [_number(key) for key in keys] != list(range(len(keys))):
        yield Fault(
            path,
            f"createOptions must be followed by createOptions01, 02 and so on without a gap, but there are {', '.join(keys)}",
        )
        return
    if len(keys) > MAX_PIECES:
        yield Fault(path, f"createOptions must be at most {MAX_PIECES} pieces, not {len(keys)}")
    for key in keys:
        if len(settings[key]) > PIECE_CHARACTERS:
            found = len(settings[key])
            yield Fault(
                f"{path}/{key}",
                f"must have at most {PIECE_CHARACTERS} characters, not {found}: split it into createOptions01, 02 …",
            )
    yield from _check_document(path, join(settings))


def _check_document(path: str, whole: str) -> Iterator[Fault]:
    try:
        document = json.loads(whole) if whole else {}
    except ValueError as error:
        yield Fault(f"{path}/createOptions", f"must be JSON once its pieces are joined: {error}")
        return
    if not isinstance(document, dict):
        yield Fault(f"{path}/createOptions", "must be a JSON object once its pieces are joined")
        return
    host = document.get("HostConfig")
    requests = host.get("DeviceRequests") if isinstance(host, dict) else None
    for request in requests if isinstance(requests, list) else ():
        capabilities = request.get("Capabilities") if isinstance(request, dict) else None
        if capabilities is not None and not (
            isinstance(capabilities, list) and all(isinstance(one, list) for one in capabilities)
        ):
            found = json.dumps(capabilities)
            yield Fault(
                f"{path}/createOptions", f'Capabilities of DeviceRequests must be a list of lists, as [["gpu"]], not {found}'
            )


def _key(number: int) -> str:
    return f"createOptions{number:02}" if number else "createOptions"


def _number(key: str) -> int:
    match = KEY.fullmatch(key)
    assert match is not None
    return int(match[1] or 0)
