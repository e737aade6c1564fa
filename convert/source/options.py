"""Options for reading a source model, and their form as arguments of the processes that read it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options for reading a source model."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """Inputs and outputs of a TensorFlow graph; empty: those that the graph declares."""
    trust: bool = False
    """The author of the source is trusted: code in it may run."""
    converters: Path | None = None
    """Python file with converters for custom Keras layers (from_keras/custom_layers.py)."""
    float64_samples: bool = False
    """Samples are in float64, with values that float32 rounds; only the readers of trees use it, in this process."""

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of a command with `with_source_options`."""
        arguments = [part for name in self.inputs for part in ("--input", name)]
        arguments += [part for name in self.outputs for part in ("--output", name)]
        arguments += ["--trust"] if self.trust else []
        return arguments if self.converters is None else [*arguments, "--converters", str(self.converters.resolve())]


DEFAULT_OPTIONS = SourceOptions()


def with_source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of `SourceOptions` to a command, which receives them as one parameter `options`."""

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
