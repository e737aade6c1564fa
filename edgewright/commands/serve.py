"""`edgewright serve`: score over HTTP with a variant of a package, a model file, or an entry script."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accel.backends.backend import Session
from accel.backends.choose import AUTO, load_session
from accel.bench import open_targets
from edgewright.command_line import ModelPath, common_options
from edgewright.contracts.files import write_atomically
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import BadInputError, PackageError
from edgewright.serving.checking import check_service
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.server import TlsFiles, listen, run_server
from edgewright.serving.nocode.identify import Framework, check_trusted, framework_of
from edgewright.serving.nocode.onnx_graph import open_graph
from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.pool import SCRIPT_WORKER, ScriptOptions
from edgewright.serving.variants.app import ScoringApp
from hardware_profiles.catalog import shipped_profiles
from hardware_profiles.detect import detect, read_machine
from hardware_profiles.match import match

if TYPE_CHECKING:
    from edgewright.serving.grpc.server import GrpcServer

DEFAULT_PORT = 8000
_SCRIPT_SUFFIX = ".py"
_MODEL_WORKER = "edgewright.serving.nocode.worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a service listens, and what a client needs."""

    host: str
    port: int
    keys: Path | None
    tls: TlsFiles | None
    plain_http: bool = False
    """Other machines may connect without TLS, which a container engine or proxy in front adds or does without."""

    def check(self) -> None:
        """Refuse an address beyond this machine without keys and TLS.

        Raises:
            BadInputError: keys or TLS are missing.
        """
        if _is_loopback(self.host) or self.plain_http or (self.keys is not None and self.tls is not None):
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
@click.argument("path", metavar="SCRIPT|MODEL|BUILD|PACKAGE", type=ModelPath("package"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need keys and TLS.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free port.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Also answer gRPC on this port; 0: a free port.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Write the address to this file (JSON) when ready.")
@click.option("--name", help="Name of the model in the routes; default: from the path.")
@click.option("--variant", help="Serve this variant; default: the one that fits this machine best.")
@click.option("--backend", default=AUTO, show_default=True, help="Run the variant with this backend.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the backend; default: its own choice.")
@click.option("--trust", is_flag=True, help="Open a pickle or a layer with code: you made the model, or trust its author.")
@click.option("--model-dir", type=ModelPath("files"), help="Folder of the script's models (AZUREML_MODEL_DIR), or models:NAME.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes of the script or model.")
@click.option("--init-timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds for init().")
@click.option("--scoring-timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds per request.")
@click.option("--check", is_flag=True, help="Load, score the sample of the service, report and end.")
@click.option("--keys", type=click.Path(path_type=Path), help="JSON file with the two keys; created if missing.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS certificate chain (PEM).")
@click.option("--private-key", type=click.Path(path_type=Path), help="Private key of the certificate (PEM).")
@click.option("--plain-http", is_flag=True, help="Listen without TLS: in a container, or after a proxy that adds it.")
@common_options
def command(**options: Any) -> None:
    """Score over HTTP with a package, a model file or an entry script.

    SCRIPT is a Python file with init() and run(data), as for Azure ML; MODEL a file of ONNX, scikit-learn, Keras, LightGBM or
    XGBoost, or a SavedModel folder; BUILD a build directory or a variant in it; PACKAGE a layout directory or a tar file of it;
    models:NAME[:VERSION|@ALIAS] a version in the registry. Scripts and models other than ONNX run in worker processes of their
    own.
    """
    tls = TlsFiles.of(options.pop("certificate"), options.pop("private_key"))
    where = {name: options.pop(name) for name in ("host", "port", "keys", "plain_http")}
    access = Access(**where, tls=tls)
    access.check()
    announcement = Announcement(as_json=options.pop("as_json"), file=options.pop("ready_file"))
    grpc_port, check = options.pop("grpc_port"), options.pop("check")
    if check:
        with _application(Served(**options), None) as app:
            click.echo(asyncio.run(check_service(app)))
        return
    with _application(Served(**options), access.key_file()) as app:
        _serve(app, access, announcement, _grpc_server(app, access, grpc_port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The script or model of a service, and how it runs: the options of the command."""

    path: Path
    name: str | None
    variant: str | None
    backend: str
    threads: int | None
    trust: bool
    model_dir: Path | None
    workers: int
    init_timeout: float
    scoring_timeout: float

    @property
    def model_name(self) -> str:
        """The name in the routes."""
        return self.name or self.path.name.partition(".")[0] or self.path.resolve().name


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """The report that a service accepts requests: a line on standard output, and a file."""

    as_json: bool
    file: Path | None

    def announce(self, url: str, port: int, grpc_address: str | None) -> None:
        """Report the addresses."""
        document: dict[str, Any] = {"url": url, "port": port, "pid": os.getpid()}
        document |= {} if grpc_address is None else {"grpc": grpc_address}
        line = json.dumps(document)
        if self.file is not None:
            write_atomically(self.file, f"{line}\n".encode())
        beside = "" if grpc_address is None else f" and {grpc_address} (gRPC)"
        click.echo(line if self.as_json else f"serving on {url}/score{beside}; Ctrl-C ends it")


@contextlib.contextmanager
def _application(served: Served, keys: KeyFile | None) -> Iterator[HttpApp]:
    """Yield the application for a script, a model file, or a variant."""
    path = served.path
    if path.suffix == _SCRIPT_SUFFIX:
        yield _in_workers(served, keys, backend="python")
        return
    framework = framework_of(path)
    if framework is Framework.ONNX:
        graph, config = open_graph(path, threads=served.threads)
        yield _in_this_process(graph, config, served, keys)
    elif framework is not None:
        check_trusted(path, trust=served.trust)
        yield _in_workers(served, keys, backend=framework, module=_MODEL_WORKER)
    else:
        with _variant_in(path, served.variant) as chosen:
            session = load_session(chosen, backend=served.backend, threads=served.threads)
            yield _in_this_process(session, chosen.config, served, keys)


def _in_workers(served: Served, keys: KeyFile | None, *, backend: str, module: str = SCRIPT_WORKER) -> ScriptApp:
    options = ScriptOptions(
        path=served.path,
        model_directory=served.model_dir,
        worker_count=served.workers,
        init_timeout_s=served.init_timeout,
        scoring_timeout_s=served.scoring_timeout,
        trust=served.trust,
        worker_module=module,
    )
    return ScriptApp(options, name=served.model_name, backend=backend, keys=keys)


def _in_this_process(session: Session, config: VariantConfig, served: Served, keys: KeyFile | None) -> ScoringApp:
    timeout_s = served.scoring_timeout
    return ScoringApp(session, config, model=served.model_name, version=1, keys=keys, inference_timeout_s=timeout_s)


def _grpc_server(app: HttpApp, access: Access, port: int | None) -> GrpcServer | None:
    if port is None:
        return None
    if not isinstance(app, ScoringApp):
        raise BadInputError("--grpc-port must be absent for an entry script or a model in worker processes: use HTTP")
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise BadInputError(
            "--grpc-port needs grpcio and protobuf, which are not installed: pip install 'edgewright[serve-grpc]'"
        )
    from edgewright.serving.grpc.server import GrpcAddress, GrpcServer  # loads gRPC, which takes 0.2 s

    return GrpcServer(app, GrpcAddress(host=access.host, port=port, tls=access.tls))


def _serve(app: HttpApp, access: Access, announcement: Announcement, companion: GrpcServer | None) -> None:
    socket = listen(access.host, access.port)
    scheme = "http" if access.tls is None else "https"
    host = f"[{access.host}]" if ":" in access.host else access.host
    port = socket.getsockname()[1]

    def started() -> None:
        grpc_address = None if companion is None else f"{host}:{companion.port}"
        announcement.announce(f"{scheme}://{host}:{port}", port, grpc_address)

    run_server(app, socket=socket, tls=access.tls, started=started, companion=companion)


@contextlib.contextmanager
def _variant_in(path: Path, name: str | None) -> Iterator[VariantDirectory]:
    """Yield the named variant, or the one that fits this machine best; those of a package are unpacked until the block ends."""
    with open_targets(path, name) as targets:
        variants = {target.name: target.variant for target in targets if target.variant is not None}
        if not variants:
            raise BadInputError(f"{path} must be an entry script, a model file, a build directory or a package")
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
