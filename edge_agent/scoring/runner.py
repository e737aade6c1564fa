"""The process that scores: one slot, served on the agent's own listening socket.

The socket is inherited, so the address never changes; connections that arrive while one runner takes over from another, or
restarts, wait in the socket's backlog. The runner says `ready` when its model is loaded, and drains when it is asked to end.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from accel.backends.choose import load_session
from edge_agent.workers.lifeline import end_with_the_agent
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError
from edgewright.serving.app import ScoringApp
from edgewright.serving.server import run_server

READY = "ready"


@click.command()
@click.option("--slot", type=click.Path(path_type=Path), required=True)
@click.option("--model", required=True)
@click.option("--version", type=int, required=True)
@click.option("--backend", required=True)
@click.option("--threads", type=int)
@click.option("--socket", "descriptor", type=int, required=True)
def main(slot: Path, model: str, version: int, backend: str, threads: int | None, descriptor: int) -> None:
    """Score with the variant in SLOT on an inherited listening socket; the agent starts this, people do not."""
    end_with_the_agent(gently=True)
    said = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like our word
    try:
        variant = VariantDirectory.open(slot)
        session = load_session(variant, backend=backend, threads=threads)
    except EdgewrightError as error:
        raise click.ClickException(str(error)) from error
    app = ScoringApp(session, variant.config, model=model, version=version)
    os.write(said, f"{READY}\n".encode())
    run_server(app, socket=socket.socket(fileno=descriptor))


if __name__ == "__main__":
    main()
