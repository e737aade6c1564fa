"""The command line as the reference shows it: every command imported, under the name that a user types.

The root command of `edgewright.cli` is lazy, and the click commands in it are called after their Python functions.
"""

from __future__ import annotations

import copy

import click

from edgewright.cli import COMMANDS, main


def named(command: click.Command, name: str) -> click.Command:
    """Return a copy of `command` and its subcommands, each with the name under which its parent lists it."""
    renamed = copy.copy(command)
    renamed.name = name
    if isinstance(renamed, click.Group):
        renamed.commands = {below: named(one, below) for below, one in renamed.commands.items()}
    return renamed


def _imported(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"{name} is in COMMANDS"
    return named(command, name)


cli = click.Group(name="edgewright", help=main.help, commands={name: _imported(name) for name in COMMANDS})
