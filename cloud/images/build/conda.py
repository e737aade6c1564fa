"""The layer of an environment's conda packages: py-rattler resolves and installs them from the channels that the user configured.

    reachable_channels    channels with an address that answers; a name is completed by CONDA_CHANNEL_ALIAS, as conda does
    conda_layer           resolve, install without running scripts of packages, keep what a service needs

No channel has a default address, so only hosts that the user configured are contacted. Where no channel is reachable, packages of
the same names come from pip (`packages.py`). The packages run in the image's own Python: that of conda is left out of the layer.
Source: https://conda.github.io/rattler/py-rattler/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cloud.images.build.bytecode import Compiler
from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import PYTHON_VERSION
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import ImageLayer, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.errors import BadInputError, UnreachableError, one_line

CONDA_FOLDER = "opt/edgewright/conda"
CONDA_PACKAGES = f"{CONDA_FOLDER}/lib/python{PYTHON_VERSION}/site-packages"
_SUBDIRS = {
    "linux/amd64": "linux-64",
    "linux/arm64": "linux-aarch64",
    "linux/ppc64le": "linux-ppc64le",
    "linux/s390x": "linux-s390x",
}
_GLIBC = "2.28"
"""Oldest C library of images; that of the wheels for other platforms."""
_LEFT_OUT = ("conda-meta/", "include/", "share/doc/", "share/man/", "CACHEDIR.TAG")
_FORMAT = 1
Log = Callable[[str], None]


def reachable_channels(environment: Environment, log: Log) -> tuple[str, ...]:
    """Return the addresses of the channels that answer; the log has the reason for each that does not."""
    if not environment.conda_packages:
        return ()
    if find_spec("rattler") is None:
        log("conda packages need py-rattler, which the building machine does not have: pip install 'edgewright[conda]'")
        return ()
    return tuple(address for channel in environment.conda_channels if (address := _reachable(channel, log)))


def conda_layer(
    store: LayerStore, specs: tuple[str, ...], channels: tuple[str, ...], platform: str, work: Path, cache: Path
) -> ImageLayer:
    """Return the layer of conda packages and of what they depend on.

    Raises:
        BadInputError: the packages cannot be resolved; the text is the solver's own.
        UnreachableError: a channel stopped answering.
    """
    key = f"conda {_FORMAT} {PYTHON_VERSION} {specs} {channels} {platform}"

    def make() -> ImageLayer:
        import asyncio  # loaded where it is used: most builds have no conda package

        prefix = work / "conda"
        store.log(f"conda install {' '.join(specs)} from {' '.join(channels)}")
        try:
            names = asyncio.run(_install(specs, channels, platform, prefix, cache))
            return store.write(_entries(prefix), LayerPart.CONDA, ", ".join(names), compressed=True)
        finally:
            shutil.rmtree(prefix, ignore_errors=True)

    return store.once(key, LayerPart.CONDA, make)


def _reachable(channel: str, log: Log) -> str:
    """Return the address of a channel, or an empty text if it does not answer."""
    alias = os.environ.get("CONDA_CHANNEL_ALIAS", "").rstrip("/")
    address = channel if "://" in channel else f"{alias}/{channel}" if alias else ""
    if not address:
        log(f"conda channel {channel} has no address: give the address, or set CONDA_CHANNEL_ALIAS for the cloud")
        return ""
    problem = _problem(address.rstrip("/"))
    if problem:
        log(f"conda channel {channel} cannot be reached: {problem}")
    return "" if problem else address.rstrip("/")


def _problem(address: str) -> str:
    if address.startswith("file://"):
        folder = Path(url2pathname(urlsplit(address).path))
        return "" if (folder / "noarch" / "repodata.json").is_file() else f"{folder}/noarch/repodata.json does not exist"
    import urllib3

    timeout = urllib3.Timeout(connect=10, read=20)
    try:
        with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            status = pool.request("HEAD", f"{address}/noarch/repodata.json").status
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        return one_line(error)
    return "" if status < 400 else f"noarch/repodata.json is answered {status}"


async def _install(specs: tuple[str, ...], channels: tuple[str, ...], platform: str, prefix: Path, cache: Path) -> list[str]:
    """Install packages into `prefix` and return their names with versions, sorted."""
    import rattler
    from rattler.exceptions import FetchRepoDataError, GatewayError, InvalidMatchSpecError, SolverError

    subdirs = [rattler.Subdir(_SUBDIRS[platform]), rattler.Subdir("noarch")]
    system = [
        rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version), rattler.BuildString("0"))
        for name, version in (("__unix", "0"), ("__linux", "5.10"), ("__glibc", _GLIBC))
    ]
    try:
        records = await rattler.solve(
            list(channels),
            [rattler.MatchSpec(spec, strict=False) for spec in specs],
            gateway=rattler.Gateway(cache_dir=cache / "repodata"),
            platforms=subdirs,
            virtual_packages=system,
            constraints=[f"python {PYTHON_VERSION}.*"],
        )
    except (SolverError, InvalidMatchSpecError) as error:
        raise BadInputError(f"conda: {one_line(error)}") from error
    except (GatewayError, FetchRepoDataError) as error:
        raise UnreachableError(f"a conda channel stopped answering: {one_line(error)}") from error
    await rattler.install(
        records,
        prefix,
        cache_dir=cache / "packages",
        platform=subdirs[0],
        execute_link_scripts=False,
        show_progress=False,
        alternative_target_prefix=f"/{CONDA_FOLDER}",
    )
    return sorted(f"{record.name.normalized} {record.version}" for record in records if record.name.normalized != "python")


def _entries(prefix: Path) -> Iterator[Entry]:
    pythons = _files_of_python(prefix)
    compiler = Compiler()
    yield Entry(path=CONDA_FOLDER, source=None, mode=0o755)
    for path in sorted(prefix.rglob("*")):
        place = path.relative_to(prefix).as_posix()
        if place in pythons or place.startswith(_LEFT_OUT) or "__pycache__" in path.parts or place.endswith((".pyc", ".a")):
            continue
        if path.is_symlink():
            yield Entry(path=f"{CONDA_FOLDER}/{place}", source=str(path.readlink()))
        elif path.is_file():
            mode = 0o755 if path.stat().st_mode & 0o111 else 0o644
            yield from compiler.entries(f"{CONDA_FOLDER}/{place}", path, mode)


def _files_of_python(prefix: Path) -> frozenset[str]:
    """Return the files of conda's own Python, if it was installed as a dependency."""
    for record in (prefix / "conda-meta").glob("python-*.json"):
        document = json.loads(record.read_bytes())
        if document.get("name") == "python":
            return frozenset(document.get("files") or ())
    return frozenset()


def name_of(spec: str) -> str:
    """Return the name of the package in conda's notation, such as numpy in conda-forge::numpy=1.26."""
    match = re.match(r"(?:[\w./-]+::)?([A-Za-z0-9._-]+)", spec.strip())
    return match[1].lower() if match else ""
