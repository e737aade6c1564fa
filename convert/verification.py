"""Verify the written graph: find samples that the source can run, and compare both outputs for them.

The user's samples are taken as they are. Generated ones are tried in order until the source accepts them. A graph whose samples
depend on the others of their batch is compared one sample at a time. Small sets in other batch sizes and in other sizes of the
free axes follow (source/sample_sets.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from accel.backends.onnxruntime_cpu import OnnxRuntimeSession, load_graph
from accel.batches import fixed_batch
from accel.comparison import BATCH_SIZE, compare_outputs, measured, run_all
from accel.first_run import check_graph
from accel.independence import samples_are_independent
from accel.sample_checks import check_numbers, warn_of_uninformative
from convert.options import ConvertOptions
from convert.read_source import SourceModel, column_names
from convert.source import parity
from convert.source.identify import SourceKind, identify
from convert.source.input_uses import InputUse, input_uses
from convert.source.layout import SourceLayout
from convert.source.precision import lost_by_float32
from convert.source.sample_axes import check_first_axis_is_no_time, check_outputs_count_samples
from convert.source.sample_sets import Candidate, SampleSet, given_samples
from convert.source.samples import (
    Attempt,
    finite_samples,
    generated_samples,
    only,
    usable_sizes,
    without_failures,
    write_golden,
)
from edgewright.contracts.samples import Samples, Tensors, load_samples
from edgewright.contracts.variant import LayerKind, Measured, TensorSpec
from edgewright.contracts.wire import encode_readable
from edgewright.errors import ModelError, OperationError, ParityError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """The written graph, loaded to be compared with its source."""

    staging: Path
    graph: ir.Graph
    session: OnnxRuntimeSession
    outputs: tuple[TensorSpec, ...]
    layout: SourceLayout
    independent: bool = True
    """False if the outputs of a sample depend on the others of its batch; the source then gets one sample at a time, too."""

    @classmethod
    def open(
        cls, staging: Path, graph: ir.Graph, outputs: tuple[TensorSpec, ...], layout: SourceLayout, *, source: Path
    ) -> WrittenGraph:
        """Load the graph of `source` that was written into the build directory `staging`, after a first run elsewhere."""
        file = staging / "graph" / LayerKind.GRAPH.file_name
        check_graph(file, source)
        return cls(staging, graph, load_graph(file), outputs, layout)

    def with_independence(self, samples: Samples) -> WrittenGraph:
        """Return the graph with `independent` as it is for `samples`; raise `ModelError` if their axes count other things."""
        check_outputs_count_samples(self.session, samples)
        independent = samples_are_independent(self.session, samples)
        if not independent:
            check_first_axis_is_no_time(self.graph, self.session, samples, self.layout.batch_axes)
        return replace(self, independent=independent)

    @property
    def batch_size(self) -> int:
        fixed = fixed_batch(self.session.inputs)
        return (fixed or BATCH_SIZE) if self.independent else 1


@dataclass(frozen=True, slots=True)
class SourceRun:
    """The samples that the source was run on, and its outputs for them."""

    graph: WrittenGraph
    sets: Sequence[SampleSet]
    """The main set, without the samples that gave NaN or infinity, and small ones in other shapes."""
    outputs: Sequence[Tensors | None]
    """None for a small set that the source cannot run."""

    @property
    def samples(self) -> Samples:
        """The samples of the main set."""
        return self.sets[0].samples

    @property
    def expected(self) -> Tensors:
        """The source's outputs for the main set."""
        main = self.outputs[0]
        assert main is not None
        return main


def candidate_samples(
    graph: ir.Graph, inputs: tuple[TensorSpec, ...], source: SourceModel, options: ConvertOptions, labels: tuple[str, ...]
) -> Iterable[Candidate]:
    """Return the user's samples, or generated ones in the order in which they are tried.

    Raises:
        SamplesError: the user's samples do not fit the inputs.
    """
    if options.samples is not None:
        values = source.labels if labels != source.labels else ()
        return [given_samples(load_samples(options.samples, inputs, labels, values), inputs)]
    uses = input_uses(graph)
    counts = any(spec.dtype.startswith(("int", "uint")) and not uses[spec.name].mask for spec in inputs)
    attempts = [Attempt(missing=source.missing_values), *([Attempt(counts=2)] if counts else [])]
    tried = [replace(attempt, size=size) for size in usable_sizes(inputs) for attempt in attempts]
    return (_generated(inputs, uses, attempt, source) for attempt in tried)


def _generated(inputs: tuple[TensorSpec, ...], uses: Mapping[str, InputUse], attempt: Attempt, source: SourceModel) -> Candidate:
    generate = partial(generated_samples, inputs, uses, attempt, source.ranges, examples=source.examples)
    return Candidate(generate(), inputs, lambda sizes: generate(sizes=sizes))


def with_samples(
    kind: SourceKind, source: Path, graph: WrittenGraph, candidates: Iterable[Candidate], options: ConvertOptions
) -> SourceRun:
    """Return the samples that the source can run, and its outputs for them."""
    if options.samples is not None:
        (given,) = candidates
        run = _run(kind, source, graph.with_independence(given.samples), given, options)
        check_numbers(run.samples, run.expected, options.samples)
        return run
    problem: ModelError | None = None
    best: SourceRun | None = None
    for candidate in candidates:
        try:
            checked = _checked(graph, candidate.samples, source)
            run = _without_failures(_run(kind, source, checked, candidate, options))
        except ModelError as error:
            problem = problem or error
            continue
        if best is None or run.samples.count > best.samples.count:
            best = run
        if 2 * run.samples.count >= candidate.samples.count:
            break
    if best is None and problem is not None:
        raise problem
    if best is None or best.samples.count == 0:
        raise ModelError(f"{source} gives NaN or infinity for every generated sample: give real ones with --samples")
    return best


def _checked(graph: WrittenGraph, samples: Samples, source: Path) -> WrittenGraph:
    """Return the graph with its independence for generated samples, or raise `ModelError` if it cannot run them."""
    try:
        return graph.with_independence(samples)
    except OperationError as error:
        raise ModelError(f"{source}: {error}; the samples were generated: give real ones with --samples") from error


def _run(kind: SourceKind, source: Path, graph: WrittenGraph, candidate: Candidate, options: ConvertOptions) -> SourceRun:
    """Run the source in its own framework."""
    sets, names = candidate.sets(graph.batch_size), [spec.name for spec in graph.outputs]
    try:
        outputs = parity.run_source(
            kind, source, sets, names, layout=graph.layout, options=options.source_options, limits=options.limits()
        )
    except ModelError as error:
        if options.samples is not None:
            raise
        raise ModelError(f"{error}; the samples were generated: give real ones with --samples") from error
    return SourceRun(graph, sets, outputs)


def _without_failures(run: SourceRun) -> SourceRun:
    samples, expected = without_failures(run.samples, run.expected)
    return replace(run, sets=[replace(run.sets[0], samples=samples), *run.sets[1:]], outputs=[expected, *run.outputs[1:]])


def verify(run: SourceRun, *, tolerance: float, options: ConvertOptions, source: Path) -> Measured:
    """Compare the written graph with its source, write the parity report, and keep the golden samples.

    Raises:
        ParityError: the graph differs from its source, for the main samples or in another shape.
    """
    graph, samples, expected = run.graph, run.samples, run.expected
    warn_of_uninformative(graph.session, samples, expected, batch_size=graph.batch_size)
    actual = run_all(graph.session, samples, batch_size=graph.batch_size)
    comparison = compare_outputs(expected, actual, graph.outputs)
    accuracy = measured(comparison, expected, actual, samples.labels, graph.outputs)
    report = parity.report_on(comparison, accuracy, tolerance=tolerance, generated=options.samples is None)
    if not options.allow_mismatch:
        names = partial(column_names, identify(source), source, options.source_options)
        parity.check(report, source, "" if report.passed else lost_by_float32(samples, report, names))
        report = replace(report, other_shapes=_check_other_shapes(run, report, source))
    (graph.staging / "reports" / "parity.json").write_bytes(encode_readable(report))
    write_golden(graph.staging / "graph", samples, expected)
    return accuracy


def _check_other_shapes(run: SourceRun, report: parity.ParityReport, source: Path) -> tuple[str, ...]:
    """Compare the small sets that the source can run, and return their shapes; warn if it accepts no other size of an axis."""
    small = list(zip(run.sets[1:], run.outputs[1:], strict=True))
    compared = [(one, expected) for one, expected in small if expected is not None and _holds_values(expected)]
    for one, expected in compared:
        _check_small(run.graph, one, expected, report, source)
    if any(one.resized for one, _ in small) and not any(one.resized for one, _ in compared):
        log.warning("compared only with %s: the source cannot run other sizes; fix them with --shape", run.sets[0])
    return tuple(str(one) for one, _ in compared)


def _holds_values(expected: Tensors) -> bool:
    """Return False if all outputs are empty, as those of a source that crops more than the sample has."""
    return any(array.size for array in expected.values())


def _check_small(graph: WrittenGraph, small: SampleSet, expected: Tensors, report: parity.ParityReport, source: Path) -> None:
    finite = finite_samples(small.samples.count, expected)
    if not finite.any():
        return
    try:
        actual = run_all(graph.session, small.samples, batch_size=small.batch_size)
        comparison = compare_outputs(only(expected, finite), only(actual, finite), graph.outputs)
    except OperationError as error:
        raise ParityError(
            f"{source}: the converted graph must be the same as the source for all shapes, but not for {small}: {error}; "
            "fix the free axes with --shape, or accept it with --allow-mismatch"
        ) from error
    parity.check(parity.in_another_shape(report, comparison), source, where=f" for {small}")
