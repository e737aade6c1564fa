"""The inputs and outputs of a graph that the user names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ends:
    """Names of inputs and outputs; empty: those that are found."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """As the options of our own runners."""
        inputs = [part for name in self.inputs for part in ("--input", name)]
        return inputs + [part for name in self.outputs for part in ("--output", name)]


FOUND = Ends()
"""Nothing is named."""
