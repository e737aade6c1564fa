"""The server layer: edgewright and its dependencies as they are installed on this machine, without tests and sources in C."""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cloud.images.build.bytecode import Compiler
from cloud.images.build.layers import LayerStore
from edgewright import __version__
from edgewright.contracts.environments.images import ImageLayer, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.errors import OperationError

SERVER_FOLDER = "opt/edgewright/server"
_OWN_PACKAGES = ("edgewright", "accel", "hardware_profiles", "edge_agent")
"""The last for its runner, which devices start in a container."""
_LEFT_OUT = frozenset(["tests", "test", "testing_data", "__pycache__"])
_SOURCES = (".pyc", ".pyi", ".c", ".cpp", ".h", ".hpp", ".pyx", ".pxd", ".a")
_UNUSED = (
    "onnxruntime/transformers/",
    "onnxruntime/tools/",
    "onnxruntime/quantization/",
    "onnxruntime/capi/libonnxruntime.so",
)
"""Tools for preparing models, and the library for programs in C; Python's module has its own copy of that."""
_FORMAT = 1


def server_pins() -> dict[str, str]:
    """Return the names and versions of edgewright's dependencies on this machine.

    Raises:
        OperationError: one of them is not installed.
    """
    pins: dict[str, str] = {}
    _collect("edgewright", frozenset(), pins)
    del pins["edgewright"]
    return dict(sorted(pins.items()))


def server_layer(store: LayerStore) -> ImageLayer:
    """Return the layer of edgewright and its dependencies, from the cache if none of them changed."""
    pins = server_pins()
    return layer_of(store, f"{pins}", lambda: map(metadata.distribution, pins))


def layer_of(store: LayerStore, key: str, dependencies: Callable[[], Iterable[metadata.Distribution]]) -> ImageLayer:
    """Return the layer of edgewright's own files and its dependencies, which `key` identifies."""
    own = list(_own_files())
    stamps = " ".join(f"{place} {path.stat().st_size} {path.stat().st_mtime_ns}" for place, path in own)
    key = f"server {_FORMAT} {key} {stamps}"
    title = f"scoring server {__version__} and its dependencies"

    def make() -> ImageLayer:
        return store.write(_entries(own, dependencies()), LayerPart.SERVER, title, compressed=True)

    return store.once(key, LayerPart.SERVER, make)


def files_of(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the files of an installed distribution that a service needs, with their place below its folder."""
    for file in distribution.files or ():
        place = PurePosixPath(file)
        path = Path(str(distribution.locate_file(file)))
        left_out = _LEFT_OUT & set(place.parts) or place.suffix in _SOURCES or str(place).startswith(_UNUSED)
        if ".." not in place.parts and not left_out and path.is_file():
            yield place.as_posix(), path


def _collect(name: str, extras: frozenset[str], pins: dict[str, str]) -> None:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise OperationError(f"{name} must be installed on the machine that builds images: pip install {name}") from error
    pins[canonicalize_name(name)] = distribution.version
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": each}) for each in extras or {""}):
            continue
        if canonicalize_name(requirement.name) not in pins or requirement.extras:
            _collect(requirement.name, frozenset(requirement.extras), pins)


def _own_files() -> Iterator[tuple[str, Path]]:
    for package in _OWN_PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder.parent)
            if path.is_file() and "__pycache__" not in place.parts:
                yield place.as_posix(), path


def _entries(own: list[tuple[str, Path]], distributions: Iterable[metadata.Distribution]) -> Iterator[Entry]:
    compiler = Compiler()
    for place, path in own:
        yield from compiler.entries(f"{SERVER_FOLDER}/{place}", path)
    for distribution in distributions:
        for place, path in files_of(distribution):
            if not re.match(r"pip/|setuptools/", place):
                yield from compiler.entries(f"{SERVER_FOLDER}/{place}", path)
    yield Entry(path="usr/local/bin/edgewright", source=_COMMAND.encode(), mode=0o755)


_COMMAND = "#!/usr/local/bin/python3\nfrom edgewright.cli import main\n\nmain()\n"
