"""The base layer from the machine's own Python: interpreter, standard library, the shared libraries of both, CA certificates.

No registry and no network are needed. Python is placed below /usr/local; it finds its library relative to its program. Shared
libraries keep their system folder; those of a Python that was built elsewhere go next to libc, where the loader looks.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from cloud.images.build.bytecode import Compiler
from cloud.images.build.layers import LayerStore
from edgewright.contracts.environments.images import APPLICATION_FOLDER, USER, ImageLayer, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.errors import OperationError

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"usr/local/lib/python{PYTHON_VERSION}"
_LEFT_OUT = frozenset(
    [
        "test",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "tkinter",
        "turtledemo",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "__pycache__",
    ]
)
_WHEEL_LIBRARIES = (
    *("libdl.so.2", "libgcc_s.so.1", "libgomp.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6"),
    *("libutil.so.1", "libz.so.1", "libexpat.so.1", "libresolv.so.2", "libnss_dns.so.2", "libnss_files.so.2"),
)
"""Libraries that wheels of the manylinux policies load from the system (PEP 513, 571, 599, 600; not those of a desktop),
libgomp, and those of the resolver of host names.
"""
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_FILES = {
    "etc/passwd": f"root:x:0:0:root:/:/sbin/nologin\nnobody:x:{USER}:{USER}:nobody:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nnogroup:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FORMAT = 2
"""Raise it when the content of the layer changes for the same machine."""


def architecture() -> str:
    """Return this machine's architecture in Go's names."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def own_platform() -> str:
    """Return this machine's platform, such as linux/amd64."""
    return f"linux/{architecture()}"


def base_layer(store: LayerStore) -> ImageLayer:
    """Return the base layer of this machine, from the cache if Python did not change."""
    program = Path(sys.executable).resolve()
    stat = program.stat()
    key = f"base {_FORMAT} {sys.version} {program} {stat.st_size} {stat.st_mtime_ns} {platform.libc_ver()} {platform.machine()}"
    title = f"Python {platform.python_version()} of the building machine"
    return store.once(key, LayerPart.BASE, lambda: store.write(_entries(program), LayerPart.BASE, title, compressed=True))


def skeleton() -> Iterator[Entry]:
    """Yield the folders that the service needs: working directory, /tmp, and one for its keys."""
    yield Entry(path=APPLICATION_FOLDER, source=None, mode=0o755)
    yield Entry(path="tmp", source=None, mode=0o1777)
    yield Entry(path="run/edgewright", source=None, mode=0o700, owner=USER)


def _entries(program: Path) -> Iterator[Entry]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from skeleton()
    for path, text in _FILES.items():
        yield Entry(path=path, source=text.encode())
    yield Entry(path="bin", source="usr/bin")
    yield Entry(path=f"usr/local/bin/python{PYTHON_VERSION}", source=program, mode=0o755)
    for name in ("python3", "python"):
        yield Entry(path=f"usr/local/bin/{name}", source=f"python{PYTHON_VERSION}")
    compiler = Compiler()
    for source in sorted(_files_below(stdlib)):
        yield from compiler.entries(f"{LIBRARY}/{source.relative_to(stdlib).as_posix()}", source)
    extensions = sorted(path for path in (stdlib / "lib-dynload").glob("*.so") if not path.name.startswith("_tkinter"))
    yield from _shared_libraries([program, *extensions])
    for certificates in map(Path, _CERTIFICATES):
        if certificates.is_file():
            yield Entry(path="etc/ssl/certs/ca-certificates.crt", source=certificates.read_bytes())
            break


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in files:
            path = Path(directory, name)
            if path.is_file() and not name.endswith((".a", ".pyc")) and not re.match(r"_(test|tkinter|xxtest)", name):
                yield path


def _shared_libraries(programs: Iterable[Path]) -> Iterator[Entry]:
    """Yield the libraries that programs need, and the links /lib and /lib64 of a merged /usr."""
    libraries: dict[str, Path] = {}
    for path in programs:
        libraries |= _needed(path)
    home = next(path.parent for name, path in libraries.items() if name.startswith("libc.so"))
    for name in _WHEEL_LIBRARIES:
        if name not in libraries and (home / name).exists():
            libraries |= {name: home / name} | _needed(home / name)
    folders = set()
    for name, path in sorted(libraries.items()):
        folder = path.parent if str(path).startswith(("/lib", "/usr/lib")) else home
        place = folder.as_posix().lstrip("/")
        place = place if place.startswith("usr/") else f"usr/{place}"
        folders.add(place.split("/")[1])
        yield Entry(path=f"{place}/{name}", source=path.resolve(), mode=0o755)
    for folder_name in sorted(folders):
        yield Entry(path=folder_name, source=f"usr/{folder_name}")


def _needed(path: Path) -> dict[str, Path]:
    """Return the shared libraries that the dynamic loader finds for a program or library, by name."""
    finished = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    missing = re.findall(r"(\S+) => not found", finished.stdout)
    if missing:
        raise OperationError(
            f"{path} needs {missing[0]}, which is not installed on this machine: install it, or give a base image"
        )
    found = re.findall(r"(/\S+\.so\S*) \(0x", finished.stdout)
    return {Path(each).name: Path(each) for each in found}
