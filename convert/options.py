"""Options of a conversion, as the command line and the SDK give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy.typing as npt

from convert.source.options import SourceOptions
from convert.source.resource_limits import Limits
from edgewright.contracts.variant import Preprocessing
from edgewright.errors import BadInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options of a conversion."""

    head_from: str = "auto"
    """First node or layer of the head."""
    samples: Path | None = None
    """Real samples (.npz) for the comparison with the source; None: generated ones."""
    labels: tuple[str, ...] = ()
    """Class names, in the order of the first output."""
    trust: bool = False
    """The author of the file is trusted: pickles may be opened, and code in layers and operators may run."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """Inputs and outputs of a TensorFlow graph; empty: those that the graph declares."""
    shapes: tuple[str, ...] = ()
    """Shapes of inputs: `image=1x224x224x3`, or `image=Nx224x224x3` for a dynamic batch."""
    constants: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    """Inputs that are the same for all samples, such as a sampling rate; they become constants of the graph."""
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    """Axis that counts the samples, for inputs (and outputs) of the source where it is not the first one."""
    profiles: tuple[str, ...] = ()
    """Hardware profiles that the graph must run on, by name or TOML file."""
    max_memory_gb: float | None = None
    """Memory limit of the model's own framework; None: three quarters of the free memory."""
    max_time_s: float | None = None
    """Time limit of each of the framework's two processes, conversion and comparison; None: one hour."""
    preprocessing: Preprocessing | None = None
    """Preprocessing of images before the graph; None: as the source declares it."""
    converters: Path | None = None
    """Python file with converters for custom Keras layers. It is run, so it requires `trust`."""
    allow_mismatch: bool = False
    """Keep a graph that differs from its source by more than the tolerance."""

    def __post_init__(self) -> None:
        if self.converters is not None and not self.trust:
            raise BadInputError(f"--converters runs {self.converters}: add --trust if you know who wrote it")

    @property
    def source_options(self) -> SourceOptions:
        """The part of the options that the readers of the source need."""
        return SourceOptions(
            inputs=self.inputs,
            outputs=self.outputs,
            trust=self.trust,
            converters=self.converters,
            other_ends=(*self.constants, *self.batch_axes),
            shapes=self.shapes,
            samples=self.samples,
        )

    def limits(self) -> Limits:
        """Return the limits of a framework's process, from the memory that is free now."""
        return Limits.of_this_machine(self.max_memory_gb, self.max_time_s)
