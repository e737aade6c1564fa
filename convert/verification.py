"""Verify the written graph: find samples that the source can run, and compare both outputs for them.

The user's samples are taken as they are. Generated ones are tried in order until the source accepts them. A graph whose samples
depend on the others of their batch is compared one sample at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from accel.backends.backend import Session
from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import BATCH_SIZE, compare_outputs, measured, run_all
from accel.independence import samples_are_independent
from convert.options import ConvertOptions
from convert.read_source import SourceModel
from convert.source import parity
from convert.source.identify import SourceKind
from convert.source.input_uses import input_uses
from convert.source.precision import lost_by_float32
from convert.source.samples import Attempt, generated_samples, without_failures, write_golden
from edgewright.contracts.samples import Samples, Tensors, load_samples
from edgewright.contracts.variant import LayerKind, Measured, TensorSpec
from edgewright.contracts.wire import encode_readable
from edgewright.errors import ModelError, OperationError


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """The written graph, loaded to be compared with its source."""

    staging: Path
    session: Session
    outputs: tuple[TensorSpec, ...]
    independent: bool = True
    """False if the outputs of a sample depend on the others of its batch; the source then gets one sample at a time, too."""

    @classmethod
    def open(cls, staging: Path, outputs: tuple[TensorSpec, ...]) -> WrittenGraph:
        """Load the graph that was written into the build directory `staging`."""
        return cls(staging, load_graph(staging / "graph" / LayerKind.GRAPH.file_name), outputs)

    def with_independence(self, samples: Samples) -> WrittenGraph:
        """Return the graph with `independent` as it is for `samples`."""
        return replace(self, independent=samples_are_independent(self.session, samples))

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE if self.independent else 1


def candidate_samples(
    graph: ir.Graph, inputs: tuple[TensorSpec, ...], source: SourceModel, options: ConvertOptions, labels: tuple[str, ...]
) -> list[Samples]:
    """Return the user's samples, or generated ones in the order in which they are tried."""
    if options.samples is not None:
        return [load_samples(options.samples, inputs, labels)]
    uses = input_uses(graph)
    counts = any(spec.dtype.startswith(("int", "uint")) and not uses[spec.name].mask for spec in inputs)
    attempts = [Attempt(missing=source.missing_values), *([Attempt(counts=2)] if counts else [])]
    return [generated_samples(inputs, uses, attempt, source.ranges) for attempt in attempts]


def with_samples(
    kind: SourceKind, source: Path, graph: WrittenGraph, candidates: Sequence[Samples], options: ConvertOptions
) -> tuple[WrittenGraph, Samples, Tensors]:
    """Return the samples that the source can run, and its outputs for them."""
    if options.samples is not None:
        (given,) = candidates
        checked = graph.with_independence(given)
        return checked, given, _source_outputs(kind, source, checked, given, options)
    problem: ModelError | None = None
    best: tuple[WrittenGraph, Samples, Tensors] | None = None
    for candidate in candidates:
        try:
            checked = _checked(graph, candidate, source)
            expected = _source_outputs(kind, source, checked, candidate, options)
        except ModelError as error:
            problem = problem or error
            continue
        samples, expected = without_failures(candidate, expected)
        if best is None or samples.count > best[1].count:
            best = (checked, samples, expected)
        if 2 * samples.count >= candidate.count:
            break
    if best is None and problem is not None:
        raise problem
    if best is None or best[1].count == 0:
        raise ModelError(f"{source} gives NaN or infinity for every generated sample: give real ones with --samples")
    return best


def _checked(graph: WrittenGraph, samples: Samples, source: Path) -> WrittenGraph:
    """Return the graph with its independence for generated samples, or raise `ModelError` if it cannot run them."""
    try:
        return graph.with_independence(samples)
    except OperationError as error:
        raise ModelError(f"{source}: {error}; the samples were generated: give real ones with --samples") from error


def _source_outputs(kind: SourceKind, source: Path, graph: WrittenGraph, samples: Samples, options: ConvertOptions) -> Tensors:
    """Return the source's outputs for the samples, computed in its own framework."""
    names = [spec.name for spec in graph.outputs]
    try:
        return parity.run_source(
            kind, source, samples, names, options.source_options, options.limits(), batch_size=graph.batch_size
        )
    except ModelError as error:
        if options.samples is not None:
            raise
        raise ModelError(f"{error}; the samples were generated: give real ones with --samples") from error


def verify(
    graph: WrittenGraph, samples: Samples, expected: Tensors, *, tolerance: float, options: ConvertOptions, source: Path
) -> Measured:
    """Compare the written graph with its source, write the parity report, and keep the golden samples."""
    actual = run_all(graph.session, samples, batch_size=graph.batch_size)
    comparison = compare_outputs(expected, actual, graph.outputs)
    accuracy = measured(comparison, expected, actual, samples.labels, graph.outputs)
    report = parity.report_on(comparison, accuracy, tolerance=tolerance, generated=options.samples is None)
    if not options.allow_mismatch:
        parity.check(report, source, lost_by_float32(samples, report))
    (graph.staging / "reports" / "parity.json").write_bytes(encode_readable(report))
    write_golden(graph.staging / "graph", samples, expected)
    return accuracy
