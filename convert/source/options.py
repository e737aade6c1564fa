"""Options for reading a source model, and their form in the requests to the processes that read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from convert.source.identify import SourceKind


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
    other_ends: tuple[str, ...] = ()
    """Inputs whose first axis does not count samples in the source: constants, and those with another batch axis."""
    shapes: tuple[str, ...] = ()
    samples: Path | None = None
    """Shapes (`image=Nx3x224x224`) and samples (.npz) of the inputs, for sources that do not hold the shapes of their inputs."""


DEFAULT_OPTIONS = SourceOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """A source and the options for reading it, as JSON carries them to a worker process."""

    kind: SourceKind
    path: str
    """Absolute."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    trust: bool = False
    converters: str | None = None

    @classmethod
    def of(cls, kind: SourceKind, path: Path, options: SourceOptions) -> SourceRequest:
        """Return the request for a source."""
        return cls(
            kind=kind,
            path=str(path.resolve()),
            inputs=options.inputs,
            outputs=options.outputs,
            trust=options.trust,
            converters=None if options.converters is None else str(options.converters.resolve()),
        )

    @property
    def options(self) -> SourceOptions:
        """The options for reading the source."""
        converters = None if self.converters is None else Path(self.converters)
        return SourceOptions(inputs=self.inputs, outputs=self.outputs, trust=self.trust, converters=converters)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A source, and a folder with sets of inputs for it, which gets the outputs (run_source.py)."""

    source: SourceRequest
    folder: str
    batch_sizes: tuple[int, ...]
    """One per set."""
    input_axes: tuple[int | None, ...] = ()
    output_axes: tuple[int, ...] = ()
    """Batch axes in the source (see `Feed`)."""
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Shapes of an ONNX file's inputs that the user replaced, by name."""
