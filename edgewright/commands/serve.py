"""`edgewright serve`: score over HTTP with a variant of a package, a model file, or an entry script."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewright.command_line import ModelPath, common_options
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.listening import SOCKET_VARIABLE, TlsFiles, listen
from edgewright.serving.nocode.identify import model_in
from edgewright.serving.served import Served
from edgewright.serving.supervision.keeper import keep_running

if TYPE_CHECKING:
    from edgewright.serving.grpc.server import GrpcServer
    from edgewright.serving.http.application import HttpApp

DEFAULT_PORT = 8000
_AUTO = "auto"
"""`accel.backends.choose.AUTO`, whose module is loaded only when a variant is."""


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

    @property
    def scheme(self) -> str:
        """The scheme of the URL."""
        return "http" if self.tls is None else "https"

    @property
    def url_host(self) -> str:
        """The host as URLs have it."""
        return f"[{self.host}]" if ":" in self.host else self.host

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
@click.option("--backend", default=_AUTO, show_default=True, help="Run the variant with this backend.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the backend; default: its own choice.")
@click.option("--trust", is_flag=True, help="Open a pickle or a layer with code: you made the model, or trust its author.")
@click.option("--model-dir", type=ModelPath("files"), help="Folder of the script's models (AZUREML_MODEL_DIR), or models:NAME.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes of the script or model.")
@click.option("--init-timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds for init().")
@click.option("--scoring-timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds per request.")
@click.option(
    "--queue-timeout", type=click.FloatRange(min=0.0), default=0.5, show_default=True, help="Seconds of waiting; then 503."
)
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
    served = Served(path=model_in(options.pop("path")), **options)
    served.check()
    if not check:
        _serve(served, access, announcement, grpc_port)
        return
    from edgewright.serving.checking import check_service
    from edgewright.serving.opening import application

    with application(served, None) as app:
        click.echo(asyncio.run(check_service(app)))


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


def _grpc_server(app: HttpApp, access: Access, port: int | None, *, is_shared: bool) -> GrpcServer | None:
    if port is None:
        return None
    from edgewright.serving.variants.app import ScoringApp

    if not isinstance(app, ScoringApp):
        raise BadInputError("--grpc-port must be absent for an entry script or a model in worker processes: use HTTP")
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise BadInputError(
            "--grpc-port needs grpcio and protobuf, which are not installed: pip install 'edgewright[serve-grpc]'"
        )
    from edgewright.serving.grpc.server import GrpcAddress, GrpcServer  # loads gRPC, which takes 0.2 s

    return GrpcServer(app, GrpcAddress(host=access.host, port=port, tls=access.tls, is_shared=is_shared))


def _serve(served: Served, access: Access, announcement: Announcement, grpc_port: int | None) -> None:
    """Listen and serve: in a child process that is replaced, if the model runs in the process of the server."""
    keys = access.key_file()
    is_supervised = SOCKET_VARIABLE in os.environ  # the supervisor replaces this process
    socket = listen(access.host, access.port)

    def serve(report: Callable[[dict[str, Any]], None]) -> None:
        from edgewright.serving.http.server import run_server
        from edgewright.serving.opening import application

        with application(served, keys) as app:
            companion = _grpc_server(app, access, grpc_port, is_shared=is_supervised)

            def started() -> None:
                report({} if companion is None else {"grpc": f"{access.url_host}:{companion.port}"})

            run_server(app, socket=socket, tls=access.tls, started=started, companion=companion)

    def announce(report: dict[str, Any]) -> None:
        port = socket.getsockname()[1]
        announcement.announce(f"{access.scheme}://{access.url_host}:{port}", port, report.get("grpc"))

    with contextlib.closing(socket):
        if served.runs_in_workers or is_supervised:
            serve(announce)
        else:
            with _own_temporary_directory():
                keep_running(serve, announce)


@contextlib.contextmanager
def _own_temporary_directory() -> Iterator[None]:
    """Let the children unpack into a folder that is removed even if one of them ends at once.

    A container with a read-only file system has no place for it, and its model no need of it.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgewright-serve-")
    except OSError:
        yield
        return
    with folder as tempfile.tempdir:
        yield


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
