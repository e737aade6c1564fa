"""Runner: the process that scores with one slot on the scoring socket of the agent.

The sockets are inherited, so the addresses never change. Connections that arrive during a restart or hand-over wait in a backlog.
The runner verifies the files of its slot, writes `loaded` when the model is loaded and `ready` when it scores the golden samples
as its source does. It drains on SIGTERM, and stops to accept at the agent's address on SIGUSR1. A slot with damaged files ends it
with the exit code `DAMAGED_EXIT`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from accel.backends.backend import Session
from accel.backends.choose import load_session
from accel.golden import check_golden
from edge_agent.storage.integrity import DAMAGED_EXIT, slot_damage
from edgewright.contracts.samples import Tensors, load_samples
from edgewright.contracts.variant import LayerKind, VariantConfig, VariantDirectory
from edgewright.errors import EdgewrightError, OperationError
from edgewright.serving.http.exchange import Exchange
from edgewright.serving.http.server import make_server
from edgewright.serving.variants.app import ScoringApp
from edgewright.worker_process import exit_with_parent

LOADED = "loaded"
READY = "ready"
BACKLOG = 1024


class WorkloadApp(ScoringApp):
    """The application of a workload, also below `/w/NAME` and as model NAME."""

    def __init__(self, workload: str, session: Session, config: VariantConfig, **options: Any) -> None:
        super().__init__(session, config, **options)
        self._prefixes = ((f"/w/{workload}", ""), (f"/v2/models/{workload}", f"/v2/models/{options['model']}"))

    def admit(self, exchange: Exchange) -> None:
        """Give a request its route; the prefix of the workload makes no difference."""
        for prefix, replacement in self._prefixes:
            if exchange.path == prefix or exchange.path.startswith(f"{prefix}/"):
                exchange.path = replacement + exchange.path.removeprefix(prefix) or "/"
                break
        super().admit(exchange)


class DamagedSlot(click.ClickException):
    """The end of a runner whose slot has damaged files."""

    exit_code = DAMAGED_EXIT


@click.command()
@click.option("--slot", type=click.Path(path_type=Path), required=True)
@click.option("--model", required=True)
@click.option("--version", type=int, required=True)
@click.option("--backend", required=True)
@click.option("--threads", type=int)
@click.option("--inference-timeout", "inference_timeout_s", type=float, required=True)
@click.option("--socket", "own", required=True, help="Descriptor of a listening socket, or the path of a Unix socket to make.")
@click.option("--agent-socket", "agent", help="The same for the agent's address.")
@click.option("--workload", required=True)
def main(
    *,
    slot: Path,
    workload: str,
    agent: str | None,
    model: str,
    version: int,
    backend: str,
    threads: int | None,
    inference_timeout_s: float,
    own: str,
) -> None:
    """Score with the variant in SLOT on listening sockets; the agent starts this command."""
    if own.isdecimal():  # else in a container, which its engine ends
        exit_with_parent(gracefully=True)
    has_left = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: has_left.set())
    ready_output = os.dup(1)
    os.dup2(2, 1)  # keep a library's output on standard output apart from the ready line
    damage = slot_damage(slot)
    if damage is not None:
        raise DamagedSlot(damage)
    try:
        variant = VariantDirectory.open(slot)
        session = load_session(variant, backend=backend, threads=threads)
        os.write(ready_output, f"{LOADED}\n".encode())
        check_golden_samples(session, variant)
    except EdgewrightError as error:
        raise click.ClickException(str(error)) from error
    app = WorkloadApp(
        workload,
        session,
        variant.config,
        model=model,
        version=version,
        known_good=golden_sample(variant),
        inference_timeout_s=inference_timeout_s,
    )
    sockets = [listening_socket(each) for each in (own, agent) if each is not None]
    os.write(ready_output, f"{READY}\n".encode())
    serve(app, has_left, sockets)


def listening_socket(text: str) -> socket.socket:
    """Return an inherited socket by its descriptor, or a new Unix socket at a path, which outside of a container is a relay's."""
    if text.isdecimal():
        return socket.socket(fileno=int(text))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(text)
    made.listen(BACKLOG)
    return made


def serve(app: WorkloadApp, has_left: threading.Event, sockets: Sequence[socket.socket]) -> None:
    """Serve until SIGTERM; SIGUSR1, which sets `has_left` if it comes earlier, ends accepting on the last of several sockets."""

    def started() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.leave_last_socket)
        if has_left.is_set():
            server.leave_last_socket()

    server = make_server(app, started=started)
    app.watch(server.connections)
    try:
        server.run(sockets)
    finally:
        app.close()


def check_golden_samples(session: Session, variant: VariantDirectory) -> None:
    """Score the golden samples, if the package has some.

    Raises:
        OperationError: the outputs differ by more than the tolerance.
    """
    if LayerKind.GOLDEN_INPUTS not in variant.layers():
        return
    result = check_golden(session, variant, variant.path)
    if result.failure is not None:
        raise OperationError(f"the golden samples must be scored as by the source: {result.failure}")


def golden_sample(variant: VariantDirectory) -> Tensors | None:
    """Return one golden sample of the variant; None if its package has none."""
    path = variant.file(LayerKind.GOLDEN_INPUTS)
    if not path.is_file():
        return None
    return load_samples(path, variant.config.inputs).slice(0, 1).inputs


if __name__ == "__main__":
    main()
