"""Convert a trained model into a build directory: one verified graph, cut into featurizer and head.

identify    find the kind of the source from its content
read        get the model as an ONNX graph
simplify    run the passes
split       cut the graph into featurizer and head
write       write graph and weights
verify      compare the graph with the source, run in its own framework
fp32        write the first variant: the graph itself
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from accel.backends.backend import Session
from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import BATCH_SIZE, compare_outputs, measured, run_all
from accel.independence import samples_are_independent
from convert.graph.outputs import with_measures
from convert.graph.shapes import check_shapes, fix_shapes
from convert.passes.simplify import simplify
from convert.read_source import SourceModel, read_source
from convert.source import parity
from convert.source.identify import SourceKind, identify
from convert.source.input_uses import input_uses
from convert.source.options import SourceOptions
from convert.source.precision import lost_by_float32, rounds_in_float32
from convert.source.resource_limits import Limits
from convert.source.samples import Attempt, generated_samples, without_failures, write_golden
from convert.split import AUTO, SupportedOperators, split
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, Cut, write_record
from edgewright.contracts.names import Digest
from edgewright.contracts.samples import Samples, Tensors, load_samples
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Measure,
    Measured,
    Precision,
    Preprocessing,
    TensorSpec,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.contracts.wire import encode_readable
from edgewright.errors import BadInputError, ModelError, OperationError
from edgewright.graphs.files import write_graph
from hardware_profiles.catalog import load_profile
from hardware_profiles.hardware_profile import HardwareProfile

log = logging.getLogger(__name__)

_CHANNEL_COUNTS = (1, 3, 4)
"""Grey, RGB, RGBA."""
_GRAPH_LAYERS = (LayerKind.GRAPH, LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options of a conversion."""

    head_from: str = AUTO
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
        return SourceOptions(inputs=self.inputs, outputs=self.outputs, trust=self.trust, converters=self.converters)

    def limits(self) -> Limits:
        """Return the limits of a framework's process, from the memory that is free now."""
        return Limits.of_this_machine(self.max_memory_gb, self.max_time_s)


def convert_model(source: Path, build: Path, options: ConvertOptions) -> BuildDirectory:
    """Convert the model at `source` into the build directory `build`, replacing an existing one.

    Raises:
        ModelError: the model cannot be read, or cannot be expressed in ONNX.
        SamplesError: the samples do not fit the model.
        ParityError: the graph differs from its source.
        StorageFullError: the disk is full; no files are left.
        OperationError: there is too little memory, or a limit was reached.
    """
    try:
        return _convert_model(source, build, options)
    except PermissionError as error:
        raise BadInputError(f"{error.filename} cannot be opened: permission denied; change its permissions") from error
    except MemoryError as error:
        raise OperationError(
            f"{source}: converting it needs more memory than this process may have: free some, or use a larger machine"
        ) from error


def _convert_model(source: Path, build: Path, options: ConvertOptions) -> BuildDirectory:
    kind = identify(source)
    _check_ends_apply(kind, options)
    profiles = [load_profile(name) for name in options.profiles]
    started = time.perf_counter()
    rounded = kind in parity.TABLE_KINDS and options.samples is not None and rounds_in_float32(options.samples)
    source_model = read_source(kind, source, replace(options.source_options, float64_samples=rounded), options.limits)
    model = source_model.model
    log.info("read source_kind=%s nodes=%d took_ms=%.0f", kind, len(model.graph), _milliseconds(started))
    fix_shapes(model, options.shapes)
    simplify(model)
    check_shapes(model, profiles)
    cut, parts = split(model, _head_from(source_model, options), _accelerators(profiles))
    inputs, outputs = _specs(model.graph.inputs), _specs(model.graph.outputs)
    _check_sample_axes(inputs, outputs)
    labels = _checked_labels(options.labels or source_model.labels, outputs[0])
    outputs = with_measures(model.graph, outputs, _predicts(kind, labels))
    candidates = _candidates(model.graph, inputs, source_model, options, labels)
    with BuildDirectory.creating(build) as staging:
        started = time.perf_counter()
        write_graph(staging / "graph", model, parts.is_head)
        log.info("wrote graph nodes=%d took_ms=%.0f", len(model.graph), _milliseconds(started))
        started = time.perf_counter()
        graph, samples, expected = _with_samples(kind, source, _Graph.open(staging, outputs), candidates, options)
        accuracy = _verify(graph, samples, expected, tolerance=source_model.tolerance, options=options, source=source)
        log.info("compared with source samples=%d took_ms=%.0f", accuracy.sample_count, _milliseconds(started))
        record = BuildRecord(
            source_kind="sklearn" if kind is SourceKind.PICKLE else kind.value,
            source_digest=_digest_of(source),
            inputs=inputs,
            outputs=outputs,
            tolerance=parity.float_tolerance(accuracy),
            labels=labels,
            cut=cut,
            preprocessing=options.preprocessing or source_model.preprocessing,
            independent_samples=graph.independent,
        )
        write_record(staging, record)
        _write_float_variant(staging, record, accuracy)
    return BuildDirectory.open(build)


def _accelerators(profiles: Iterable[HardwareProfile]) -> list[SupportedOperators]:
    """Return the operators that the accelerators of the profiles support."""
    if not any(profile.npu for profile in profiles):
        return []
    from accel.npu.lowering.lower import AT_INPUTS, OPERATORS

    return [SupportedOperators(anywhere=OPERATORS, at_inputs=AT_INPUTS)]


def describe_cut(cut: Cut, graph: Path) -> list[tuple[str, int, float, str]]:
    """Return table rows (part, nodes, weights in MB, tensors) for a cut of the graph in the folder `graph`."""
    featurizer, head = (_megabytes(graph / kind.file_name) for kind in (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS))
    return [
        ("featurizer", cut.featurizer_nodes, featurizer, "gives " + ", ".join(cut.tensors)),
        ("head", cut.head_nodes, head, "takes " + ", ".join(cut.tensors)),
    ]


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.is_file() else 0.0


def _check_ends_apply(kind: SourceKind, options: ConvertOptions) -> None:
    if (options.inputs or options.outputs) and kind not in (SourceKind.SAVED_MODEL, SourceKind.FROZEN_GRAPH):
        raise BadInputError(f"--inputs and --outputs apply to TensorFlow graphs only, not to {kind}: leave them out")


def _milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000


def _head_from(source_model: SourceModel, options: ConvertOptions) -> str:
    """Return the first node or layer of the head: from the options, else the head that the author attached, else `auto`."""
    if options.head_from != AUTO:
        return options.head_from
    layers = {part for node in source_model.model.graph for part in _layers_of(str(node.name))}
    return next((name for name in source_model.head_layers if name in layers), AUTO)


def _layers_of(name: str) -> list[str]:
    """Return the layers that contain a node, outermost first: `head/hidden/Gemm` is in `head` and in `head/hidden`."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ModelError(f"{value.name} must have a known shape and type; give the model's inputs and outputs fixed shapes")
    free = ("N", *(f"{value.name}_axis{axis}" for axis in range(1, len(value.shape))))
    shape = tuple(
        size if isinstance(size, int) else str(size.value or name) for size, name in zip(value.shape, free, strict=False)
    )
    return TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, shape=shape, axes=_axes(shape))


def _axes(shape: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the axis names of an image, inferred from which axis has 1, 3 or 4 entries."""
    if len(shape) != 4:
        return ()
    channels_first = shape[1] in _CHANNEL_COUNTS and shape[3] not in _CHANNEL_COUNTS
    return ("batch", "channels", "height", "width") if channels_first else ("batch", "height", "width", "channels")


def _check_sample_axes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Check that no input or output is a scalar, which cannot hold one value per sample."""
    for role, specs in (("input", inputs), ("output", outputs)):
        scalar = next((spec.name for spec in specs if not spec.shape), None)
        if scalar is not None:
            raise ModelError(
                f"every {role} must have an axis that counts samples, but {scalar} has no axes: export the model without it, "
                "or with a first axis for the samples"
            )


def _checked_labels(labels: tuple[str, ...], output: TensorSpec) -> tuple[str, ...]:
    classes = output.shape[-1]
    if labels and isinstance(classes, int) and len(labels) != max(classes, 2):  # one column: the probability of class 1 of 2
        raise BadInputError(
            f"there must be one label per class: output {output.name} has {classes}, but {len(labels)} were given"
        )
    return labels


def _predicts(kind: SourceKind, labels: tuple[str, ...]) -> str:
    """Return the measure of the first output as the source declares it; empty if it does not."""
    if labels:
        return Measure.CLASSES
    return Measure.VALUES if kind in parity.TABLE_KINDS else ""


@dataclass(frozen=True, slots=True)
class _Graph:
    """The written graph, loaded to be compared with its source."""

    staging: Path
    session: Session
    outputs: tuple[TensorSpec, ...]
    independent: bool = True
    """False if the outputs of a sample depend on the others of its batch; the source then gets one sample at a time, too."""

    @classmethod
    def open(cls, staging: Path, outputs: tuple[TensorSpec, ...]) -> _Graph:
        return cls(staging, load_graph(staging / "graph" / LayerKind.GRAPH.file_name), outputs)

    def with_independence(self, samples: Samples) -> _Graph:
        """Return the graph with `independent` as it is for `samples`."""
        return replace(self, independent=samples_are_independent(self.session, samples))

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE if self.independent else 1


def _candidates(
    graph: ir.Graph, inputs: tuple[TensorSpec, ...], source: SourceModel, options: ConvertOptions, labels: tuple[str, ...]
) -> list[Samples]:
    """Return the user's samples, or generated ones in the order in which they are tried."""
    if options.samples is not None:
        return [load_samples(options.samples, inputs, labels)]
    uses = input_uses(graph)
    counts = any(spec.dtype.startswith(("int", "uint")) and not uses[spec.name].mask for spec in inputs)
    attempts = [Attempt(missing=source.missing_values), *([Attempt(counts=2)] if counts else [])]
    return [generated_samples(inputs, uses, attempt, source.ranges) for attempt in attempts]


def _with_samples(
    kind: SourceKind, source: Path, graph: _Graph, candidates: Sequence[Samples], options: ConvertOptions
) -> tuple[_Graph, Samples, Tensors]:
    """Return the samples that the source can run, and its outputs for them."""
    if options.samples is not None:
        (given,) = candidates
        checked = graph.with_independence(given)
        return checked, given, _source_outputs(kind, source, checked, given, options)
    problem: ModelError | None = None
    best: tuple[_Graph, Samples, Tensors] | None = None
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


def _checked(graph: _Graph, samples: Samples, source: Path) -> _Graph:
    """Return the graph with its independence for generated samples, or raise `ModelError` if it cannot run them."""
    try:
        return graph.with_independence(samples)
    except OperationError as error:
        raise ModelError(f"{source}: {error}; the samples were generated: give real ones with --samples") from error


def _source_outputs(kind: SourceKind, source: Path, graph: _Graph, samples: Samples, options: ConvertOptions) -> Tensors:
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


def _verify(
    graph: _Graph, samples: Samples, expected: Tensors, *, tolerance: float, options: ConvertOptions, source: Path
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


def _write_float_variant(staging: Path, record: BuildRecord, accuracy: Measured) -> None:
    """Write the float32 variant: the graph's own files, copied because ONNX's loader rejects weights with hard links."""
    folder = staging / "variants" / FLOAT_VARIANT
    folder.mkdir()
    for kind in _GRAPH_LAYERS:
        if (staging / "graph" / kind.file_name).is_file():
            shutil.copyfile(staging / "graph" / kind.file_name, folder / kind.file_name)
    config = VariantConfig(
        variant=FLOAT_VARIANT,
        backend=BackendName.ONNXRUNTIME,
        precision=Precision.FP32,
        inputs=record.inputs,
        outputs=record.outputs,
        tolerance=record.tolerance,
        size_bytes=size_of_weights_and_graph(folder),
        labels=record.labels,
        preprocessing=record.preprocessing,
        measured=accuracy,
        independent_samples=record.independent_samples,
    )
    VariantDirectory.write(folder, config)


def _digest_of(source: Path) -> Digest:
    if source.is_file():
        with source.open("rb") as stream:
            return Digest("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(source).as_posix()}\0{_digest_of(path)}\n".encode())
    return Digest("sha256:" + digest.hexdigest())
