"""`edgewright serve`: score over HTTP with a variant of a package, or with an entry script."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from accel.backends.choose import AUTO, load_session
from accel.bench import open_targets
from edgewright.command_line import common_options
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import BadInputError, PackageError
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.server import TlsFiles, listen, run_server
from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.pool import ScriptOptions
from edgewright.serving.variants.app import ScoringApp
from hardware_profiles.catalog import shipped_profiles
from hardware_profiles.detect import detect, read_machine
from hardware_profiles.match import match

if TYPE_CHECKING:
    from edgewright.serving.grpc.server import GrpcServer

DEFAULT_PORT = 8000
_SCRIPT_SUFFIX = ".py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a service listens, and what a client needs."""

    host: str
    port: int
    keys: Path | None
    tls: TlsFiles | None

    def check(self) -> None:
        """Refuse an address beyond this machine without keys and TLS.

        Raises:
            BadInputError: keys or TLS are missing.
        """
        if _is_loopback(self.host) or (self.keys is not None and self.tls is not None):
            return
        raise BadInputError(
            f"a service on {self.host}, which other machines can reach, must have keys and TLS: "
            "give --keys, --certificate and --private-key, or listen on 127.0.0.1"
        )

    def key_file(self) -> KeyFile | None:
        """Return the keys; a file that does not exist is created with two random keys."""
        if self.keys is None:
            return None
        if not self.keys.exists():
            write_new_keys(self.keys)
            click.echo(f"created two keys in {self.keys}", err=True)
        return KeyFile(self.keys)


@click.command()
@click.argument("path", metavar="SCRIPT|BUILD|PACKAGE", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need keys and TLS.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free port.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Also answer gRPC on this port; 0: a free port.")
@click.option("--name", help="Name of the model in the routes; default: from the path.")
@click.option("--variant", help="Serve this variant; default: the one that fits this machine best.")
@click.option("--backend", default=AUTO, show_default=True, help="Run the variant with this backend.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the backend; default: its own choice.")
@click.option("--model-dir", type=click.Path(path_type=Path), help="Folder of the script's model files (AZUREML_MODEL_DIR).")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes of the script.")
@click.option("--init-timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds for init().")
@click.option("--scoring-timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds per request.")
@click.option("--keys", type=click.Path(path_type=Path), help="JSON file with the two keys; created if missing.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS certificate chain (PEM).")
@click.option("--private-key", type=click.Path(path_type=Path), help="Private key of the certificate (PEM).")
@common_options
def command(
    *,
    path: Path,
    host: str,
    port: int,
    grpc_port: int | None,
    name: str | None,
    variant: str | None,
    backend: str,
    threads: int | None,
    model_dir: Path | None,
    workers: int,
    init_timeout: float,
    scoring_timeout: float,
    keys: Path | None,
    certificate: Path | None,
    private_key: Path | None,
    as_json: bool,
) -> None:
    """Score over HTTP with a package or an entry script.

    SCRIPT is a Python file with init() and run(data), as for Azure ML; BUILD a build directory or a variant in it; PACKAGE a
    layout directory or a tar file of it. A script runs in worker processes of its own.
    """
    access = Access(host=host, port=port, keys=keys, tls=TlsFiles.of(certificate, private_key))
    access.check()
    if path.suffix == _SCRIPT_SUFFIX:
        if grpc_port is not None:
            raise BadInputError("--grpc-port must be absent for an entry script, whose requests have no tensors: use HTTP")
        options = ScriptOptions(
            path=path,
            model_directory=model_dir,
            worker_count=workers,
            init_timeout_s=init_timeout,
            scoring_timeout_s=scoring_timeout,
        )
        _serve(ScriptApp(options, name=name or path.stem, keys=access.key_file()), access, as_json=as_json)
        return
    with _variant_in(path, variant) as chosen:
        session = load_session(chosen, backend=backend, threads=threads)
        app = ScoringApp(
            session,
            chosen.config,
            model=name or path.name.partition(".")[0] or path.resolve().name,
            version=1,
            keys=access.key_file(),
            inference_timeout_s=scoring_timeout,
        )
        _serve(app, access, as_json=as_json, companion=_grpc_server(app, access, grpc_port))


def _grpc_server(app: ScoringApp, access: Access, port: int | None) -> GrpcServer | None:
    if port is None:
        return None
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise BadInputError(
            "--grpc-port needs grpcio and protobuf, which are not installed: pip install 'edgewright[serve-grpc]'"
        )
    from edgewright.serving.grpc.server import GrpcAddress, GrpcServer  # loads gRPC, which takes 0.2 s

    return GrpcServer(app, GrpcAddress(host=access.host, port=port, tls=access.tls))


def _serve(app: HttpApp, access: Access, *, as_json: bool, companion: GrpcServer | None = None) -> None:
    socket = listen(access.host, access.port)
    scheme = "http" if access.tls is None else "https"
    host = f"[{access.host}]" if ":" in access.host else access.host
    url = f"{scheme}://{host}:{socket.getsockname()[1]}"

    def started() -> None:
        grpc_address = None if companion is None else f"{host}:{companion.port}"
        if as_json:
            click.echo(json.dumps({"url": url} if grpc_address is None else {"url": url, "grpc": grpc_address}))
        else:
            beside = "" if grpc_address is None else f" and {grpc_address} (gRPC)"
            click.echo(f"serving on {url}/score{beside}; Ctrl-C ends it")

    run_server(app, socket=socket, tls=access.tls, started=started, companion=companion)


@contextlib.contextmanager
def _variant_in(path: Path, name: str | None) -> Iterator[VariantDirectory]:
    """Yield the named variant, or the one that fits this machine best; those of a package are unpacked until the block ends."""
    with open_targets(path, name) as targets:
        variants = {target.name: target.variant for target in targets if target.variant is not None}
        if not variants:
            raise BadInputError(f"{path} must be an entry script, a build directory or a package: convert the model first")
        yield variants[name or _best(path, [each.config.variant for each in variants.values()], variants)]


def _best(path: Path, names: list[str], variants: dict[str, VariantDirectory]) -> str:
    """Return the name of the variant that the profile of this machine prefers; the first one without a profile."""
    profile = detect(read_machine(), shipped_profiles()).profile
    if len(names) == 1 or profile is None:
        return names[0]
    matched = match(profile, [each.config for each in variants.values()])
    if matched.chosen is None:
        raise PackageError(f"{path} must have a variant for {profile.name}: {' '.join(matched.sentences)}")
    return matched.chosen


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
