"""Runner: the process that scores with one slot on the scoring socket of the agent.

The socket is inherited, so the address never changes. Connections that arrive during a restart or hand-over wait in its backlog.
The runner writes `ready` when its model is loaded, and drains on SIGTERM.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from accel.backends.choose import load_session
from edge_agent.workers.worker import exit_with_agent
from edgewright.contracts.samples import Tensors, load_samples
from edgewright.contracts.variant import LayerKind, VariantDirectory
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
    """Score with the variant in SLOT on an inherited socket; the agent starts this command."""
    exit_with_agent(gracefully=True)
    ready_output = os.dup(1)
    os.dup2(2, 1)  # keep a library's output on standard output apart from the ready line
    try:
        variant = VariantDirectory.open(slot)
        session = load_session(variant, backend=backend, threads=threads)
    except EdgewrightError as error:
        raise click.ClickException(str(error)) from error
    app = ScoringApp(session, variant.config, model=model, version=version, known_good=golden_sample(variant))
    os.write(ready_output, f"{READY}\n".encode())
    run_server(app, socket=socket.socket(fileno=descriptor))


def golden_sample(variant: VariantDirectory) -> Tensors | None:
    """Return one golden sample of the variant; None if its package has none."""
    path = variant.file(LayerKind.GOLDEN_INPUTS)
    if not path.is_file():
        return None
    return load_samples(path, variant.config.inputs).slice(0, 1).inputs


if __name__ == "__main__":
    main()
