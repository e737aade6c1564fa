"""Printed output of the demo: headings, quoted output, the closing tables."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from edgewright.command_line import print_table


def heading(text: str) -> None:
    """Print the title of a step."""
    click.secho(f"\n{text}", bold=True)


def say(text: str) -> None:
    """Print the output of a command, indented."""
    for line in text.rstrip().splitlines():
        click.echo(f"    {line}")


def show_summary(summary: dict[str, Any], took_s: float) -> None:
    """Print the closing tables."""
    heading("What happened")
    print_table(
        ["variant", "precision", "accuracy", "size bytes", "latency ms"],
        [[row[key] for key in ("name", "precision", "accuracy", "size_bytes", "latency_ms")] for row in summary["variants"]],
    )
    click.echo()
    print_table(
        ["device", "profile", "variant", "version", "state", "scored", "agreement"],
        [
            [row[key] for key in ("id", "profile", "variant", "version", "state", "scored", "agreement")]
            for row in summary["devices"]
        ],
    )
    pulled, bad = summary["bytes_pulled"], summary["bad_version"]
    click.echo(f"\nsource accuracy on held-out digits: {summary['source_accuracy']:.4f}")
    click.echo(
        f"bytes pulled by all devices: v1 {pulled['v1']:,}, v2 {pulled['v2']:,} "
        f"({100 * pulled['v2'] / pulled['v1']:.1f} % of v1: only the head moved)"
    )
    if board := summary["npu_board"]:
        click.echo(
            f"NPU board: pulled after {board['pulled_after']} of {board['requests']} requests, {board['answered']} answered, "
            f"{board['requests'] - board['answered']} lost"
        )
    stopped = "stopped at the canary" if bad["halted"] else "NOT stopped"
    click.echo(f"bad version: {stopped}; devices affected: {bad['devices_touched']}; reason: {bad['reason']}")
    click.echo(f"telemetry: {summary['telemetry_messages']} measurements stored; took {took_s:.0f} s")


def wait_for_interrupt(url: str, state: Path) -> None:
    """Print the address of the console and wait for Ctrl-C or SIGTERM."""
    token = (state / "operator.token").read_text("utf-8").strip()
    heading("The cloud and the devices stay up; Ctrl-C ends them")
    click.echo(f"{url}/#token={token}")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
