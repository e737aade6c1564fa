"""The command line as the reference shows it: the lazy root with every command imported."""

from __future__ import annotations

import click

from edgewright.cli import COMMANDS, main

cli = click.Group(
    name="edgewright",
    help=main.help,
    commands={name: command for name in COMMANDS if (command := main.get_command(click.Context(main), name)) is not None},
)
