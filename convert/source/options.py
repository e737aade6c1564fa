"""What the user says about a source beside its path, as it travels to the processes that read it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How a source is to be read."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """The ends of a TensorFlow graph; empty: those that are found."""
    trust: bool = False
    """The author of the source is trusted: code in it may run."""
    converters: Path | None = None
    """A Python file with the source's own layers and what they become (`custom_layers.py`)."""

    @property
    def arguments(self) -> list[str]:
        """As the options of our own runners."""
        named = [part for name in self.inputs for part in ("--input", name)]
        named += [part for name in self.outputs for part in ("--output", name)]
        named += ["--trust"] if self.trust else []
        return named if self.converters is None else [*named, "--converters", str(self.converters.resolve())]


DEFAULT_OPTIONS = SourceOptions()
"""Nothing is said."""


def with_source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a runner's command the options of `SourceOptions.arguments`, as one parameter `options`."""

    @click.option("--input", "inputs", multiple=True)
    @click.option("--output", "outputs", multiple=True)
    @click.option("--trust", is_flag=True)
    @click.option("--converters", type=click.Path(path_type=Path))
    @functools.wraps(command)
    def with_options(
        *arguments: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], trust: bool, converters: Path | None, **others: Any
    ) -> None:
        options = SourceOptions(inputs=inputs, outputs=outputs, trust=trust, converters=converters)
        command(*arguments, options=options, **others)

    return with_options
