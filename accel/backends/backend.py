"""The protocols of backends and their sessions.

A `Backend` declares which variants it can run, and loads them; a `Session` runs one. Inputs and outputs are named arrays whose
first axis counts the samples, for any batch size of the graph.
"""

from __future__ import annotations

from typing import Protocol

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import VariantConfig, VariantDirectory


class Session(Protocol):
    """One loaded variant. `run` may be called from several threads at once."""

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; return the outputs in the order of the graph.

        Raises:
            SamplesError: a name, shape or dtype does not fit; the message has the actual and the expected one.
            InferenceError: the inputs fit, but the runtime failed to run the graph on them.
            OperationError: the inputs fit, but the run failed for another reason.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software: at least `backend`, `version` and `threads`."""
        ...

    def close(self) -> None:
        """Release memory and hardware; the session cannot be used afterwards."""
        ...


class Backend(Protocol):
    """A way to run variants."""

    @property
    def name(self) -> str:
        """The name in the config of a variant and on the command line."""
        ...

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot be used on this machine, or None."""
        ...

    def runs(self, config: VariantConfig) -> bool:
        """Return True if the backend can run variants with this config."""
        ...

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load a variant; `threads` None is the backend's default.

        Raises:
            ModelError: the backend cannot load the files.
        """
        ...
