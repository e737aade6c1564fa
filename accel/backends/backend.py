"""What a way to run a variant must offer, so that everything above need not know which one it has.

A `Backend` says what it can run and loads it; a `Session` runs it. Inputs and outputs are named arrays whose first axis counts
the samples, whatever batch the graph was built for.
"""

from __future__ import annotations

from typing import Protocol

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import VariantConfig, VariantDirectory


class Session(Protocol):
    """One loaded variant. `run` may be called from several threads at once."""

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch of any size; outputs come in the order of the graph.

        Raises:
            SamplesError: a name, shape or dtype does not fit; both sides are told.
            OperationError: the inputs fit and the run failed.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Return what runs here, in words: at least `backend`, `version` and `threads`."""
        ...

    def close(self) -> None:
        """Let go of memory and hardware; the session cannot be used afterwards."""
        ...


class Backend(Protocol):
    """A way to run variants."""

    @property
    def name(self) -> str:
        """The name in a variant's config and on the command line."""
        ...

    def unavailable(self) -> str | None:
        """Return why it cannot be used on this machine, or None when it can."""
        ...

    def runs(self, config: VariantConfig) -> bool:
        """Tell whether it can run variants like this one."""
        ...

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        """Load a variant; `threads` None leaves their number to the backend.

        Raises:
            ModelError: the files are no variant that this backend can load.
        """
        ...
