"""Turn a trained model into a build directory: one verified graph, cut into featurizer and head.

identify    which reader, by content
read        the framework's model as an ONNX graph
simplify    the passes
split       featurizer and head
write       graph and weights
parity      against the source, in its own framework
fp32        the first variant: the graph itself
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from accel.backends.onnxruntime_cpu import load_graph
from accel.measure import measured, run_all
from convert.featurizers.networks import NetworkNotes
from convert.featurizers.saving import read_notes
from convert.from_keras.call import UnsupportedLayerError
from convert.from_keras.custom_layers import CustomLayers
from convert.from_keras.legacy import is_legacy
from convert.graph.index_inputs import table_rows
from convert.graph.shapes import check_shapes, fix_shapes
from convert.passes.simplify import simplify
from convert.source import parity
from convert.source.identify import SourceKind, identify
from convert.source.options import SourceOptions
from convert.source.resource_limits import Limits
from convert.split import AUTO, Runs, split
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, Cut, write_record
from edgewright.contracts.names import Digest
from edgewright.contracts.samples import Samples, load_samples
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
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

_COLOURS = (1, 3, 4)
_GRAPH_LAYERS = (LayerKind.GRAPH, LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What the user may say about a conversion."""

    head_from: str = AUTO
    """The first node or layer of the head."""
    samples: Path | None = None
    """Real samples for the comparison with the source; generated ones otherwise."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the first output."""
    trust: bool = False
    """The author of the file is trusted: pickles may be opened, and code in layers and operators may run."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """The ends of a TensorFlow graph, where those that are found are not the right ones."""
    shapes: tuple[str, ...] = ()
    """Shapes of inputs, `image=1x224x224x3`, or `image=Nx224x224x3` for a free batch."""
    profiles: tuple[str, ...] = ()
    """Names or TOML files of hardware profiles that the graph is meant for."""
    max_memory_gb: float | None = None
    """What the model's own framework may use; three quarters of the free memory otherwise."""
    max_time_s: float | None = None
    """How long the framework may take, for converting and for running each; an hour otherwise."""
    preprocessing: Preprocessing | None = None
    """What the scoring side does to an image before the graph; otherwise what the source says itself, if it says it."""
    converters: Path | None = None
    """A Python file with the model's own Keras layers and what they become; it runs, so `trust` must be given too."""
    allow_mismatch: bool = False
    """Keep a graph that differs from its source by more than the tolerance."""

    @property
    def source_options(self) -> SourceOptions:
        """What the processes that read the source must know of these."""
        return SourceOptions(inputs=self.inputs, outputs=self.outputs, trust=self.trust, converters=self.converters)

    def limits(self) -> Limits:
        """Return what a framework may use now."""
        return Limits.of_this_machine(self.max_memory_gb, self.max_time_s)

    def __post_init__(self) -> None:
        if self.converters is not None and not self.trust:
            raise BadInputError(f"--converters runs {self.converters}: add --trust if you know who wrote it")


def convert_model(source: Path, build: Path, options: ConvertOptions) -> BuildDirectory:
    """Convert the model at `source` into the build directory `build`, replacing an older one.

    Raises:
        ModelError: it cannot be read or expressed.
        SamplesError: the samples do not fit it.
        ParityError: the graph differs from its source.
        StorageFullError: the disk is full; nothing is left behind.
        OperationError: there is too little memory, or a limit was reached.
    """
    try:
        return _convert_model(source, build, options)
    except PermissionError as denied:
        raise BadInputError(f"{denied.filename} cannot be opened: permission denied; change its permissions") from denied
    except MemoryError as full:
        raise OperationError(
            f"{source}: converting it needs more memory than this process may have: free some, or use a larger machine"
        ) from full


def _convert_model(source: Path, build: Path, options: ConvertOptions) -> BuildDirectory:
    kind = identify(source)
    _check_ends_apply(kind, options)
    profiles = [load_profile(name) for name in options.profiles]
    started = time.perf_counter()
    model, known_labels = _read(kind, source, options)
    log.info("read source_kind=%s nodes=%d took_ms=%.0f", kind, len(model.graph), _milliseconds(started))
    fix_shapes(model, options.shapes)
    simplify(model)
    check_shapes(model, profiles)
    notes = _notes_in(kind, source)
    cut, parts = split(model, _head_from(model, notes, options), _accelerators(profiles))
    inputs, outputs = _specs(model.graph.inputs), _specs(model.graph.outputs)
    labels = _checked_labels(options.labels or known_labels, outputs[0])
    samples = _samples(model.graph, inputs, options.samples)
    with BuildDirectory.creating(build) as staging:
        started = time.perf_counter()
        write_graph(staging / "graph", model, parts.is_head)
        log.info("wrote graph nodes=%d took_ms=%.0f", len(model.graph), _milliseconds(started))
        started = time.perf_counter()
        found = _prove(kind, source, staging, outputs, samples, options)
        log.info("compared with source samples=%d took_ms=%.0f", found.sample_count, _milliseconds(started))
        record = BuildRecord(
            source_kind="sklearn" if kind is SourceKind.PICKLE else kind.value,
            source_digest=_digest_of(source),
            inputs=inputs,
            outputs=outputs,
            tolerance=parity.float_tolerance(found),
            labels=labels,
            cut=cut,
            preprocessing=options.preprocessing or (notes.preprocessing if notes is not None else None),
        )
        write_record(staging, record)
        _write_float_variant(staging, record, found)
    return BuildDirectory.open(build)


def _accelerators(profiles: Iterable[HardwareProfile]) -> list[Runs]:
    """Return what the profiles with an accelerator run there."""
    if not any(profile.npu for profile in profiles):
        return []
    from accel.npu.lowering.lower import AT_INPUTS, OPERATORS

    return [Runs(anywhere=OPERATORS, at_inputs=AT_INPUTS)]


def describe_cut(cut: Cut, graph: Path) -> list[tuple[str, int, float, str]]:
    """Return the rows (part, nodes, MB of weights, tensors) of the table that shows a cut of the graph in the folder `graph`."""
    featurizer, head = (_megabytes(graph / kind.file_name) for kind in (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS))
    return [
        ("featurizer", cut.featurizer_nodes, featurizer, "gives " + ", ".join(cut.tensors)),
        ("head", cut.head_nodes, head, "takes " + ", ".join(cut.tensors)),
    ]


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.is_file() else 0.0


def _check_ends_apply(kind: SourceKind, options: ConvertOptions) -> None:
    if (options.inputs or options.outputs) and kind not in (SourceKind.SAVED_MODEL, SourceKind.FROZEN_GRAPH):
        raise BadInputError(f"--inputs and --outputs name the ends of a TensorFlow graph, but {kind} is none: leave them out")


def _read(kind: SourceKind, source: Path, options: ConvertOptions) -> tuple[ir.Model, tuple[str, ...]]:
    if kind in (SourceKind.SAVED_MODEL, SourceKind.FROZEN_GRAPH):
        return _read_tensorflow(kind, source, options), ()
    if kind is SourceKind.KERAS:
        from convert.from_keras.custom_layers import custom_layers
        from convert.from_keras.reader import holds_code

        custom = custom_layers(options.converters)
        if options.trust and holds_code(source, custom):
            return _read_tensorflow(kind, source, options), ()
        return _read_keras(source, custom, options), ()
    if kind in (SourceKind.SKLEARN, SourceKind.PICKLE):
        from convert.from_trees.sklearn import read_sklearn

        return read_sklearn(source, pickled=kind is SourceKind.PICKLE, trust=options.trust)
    if kind in (SourceKind.LIGHTGBM, SourceKind.XGBOOST):
        from convert.from_trees.boosting import read_lightgbm, read_xgboost

        return read_lightgbm(source) if kind is SourceKind.LIGHTGBM else read_xgboost(source)
    if kind is SourceKind.TORCH:
        from convert.from_torch import read_torch

        return read_torch(source, trust=options.trust), ()
    from convert.from_onnx import read_onnx

    return read_onnx(source), ()


def _read_keras(source: Path, custom: CustomLayers, options: ConvertOptions) -> ir.Model:
    """Walk the layers; where one of Keras's own has no rule, let TensorFlow trace the model."""
    from convert.from_keras.reader import read_keras

    try:
        return read_keras(source, custom)
    except UnsupportedLayerError as missing:
        reason = str(missing)  # the error itself would keep the loaded model in memory
    log.info("traced by TensorFlow because=%r", reason)
    try:
        return _read_tensorflow(SourceKind.KERAS, source, options)
    except ModelError as wrong:
        log.info("TensorFlow's graph cannot be converted because=%r", str(wrong))
        raise ModelError(f"{reason} (TensorFlow's own graph of it cannot be converted either: -v says why)") from wrong


def _read_tensorflow(kind: SourceKind, source: Path, options: ConvertOptions) -> ir.Model:
    from convert.from_tensorflow.reader import read_tensorflow

    return read_tensorflow(kind, source, options.limits(), options.source_options)


def _milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000


def _notes_in(kind: SourceKind, source: Path) -> NetworkNotes | None:
    """Return what `edgewright featurizers build` and `save_network` leave in a model beside its layers."""
    return read_notes(source) if kind is SourceKind.KERAS and not is_legacy(source) else None


def _head_from(model: ir.Model, notes: NetworkNotes | None, options: ConvertOptions) -> str:
    """Return where the head begins: where the user says, else at the head that the author attached, else wherever it is found."""
    if options.head_from != AUTO or notes is None:
        return options.head_from
    layers = {part for node in model.graph for part in _layers_of(str(node.name))}
    return next((name for name in notes.head_layers if name in layers), AUTO)


def _layers_of(name: str) -> list[str]:
    """Return the layers that a node belongs to, outer ones first: `head/hidden/Gemm` is of `head` and of `head/hidden`."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ModelError(f"{value.name} must have a known shape and type; give the model's inputs and outputs fixed shapes")
    free = ("N", *(f"{value.name}_axis{place}" for place in range(1, len(value.shape))))
    shape = tuple(
        size if isinstance(size, int) else str(size.value or name) for size, name in zip(value.shape, free, strict=False)
    )
    return TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, shape=shape, axes=_axes(shape))


def _axes(shape: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return what the axes of an image mean, told by where there are as many as colours."""
    if len(shape) != 4:
        return ()
    first = shape[1] in _COLOURS and shape[3] not in _COLOURS
    return ("batch", "channels", "height", "width") if first else ("batch", "height", "width", "channels")


def _checked_labels(labels: tuple[str, ...], output: TensorSpec) -> tuple[str, ...]:
    classes = output.shape[-1]
    if labels and isinstance(classes, int) and len(labels) != max(classes, 2):  # one column: the probability of class 1 of 2
        raise BadInputError(
            f"there must be one label per class: output {output.name} has {classes}, but {len(labels)} were given"
        )
    return labels


def _samples(graph: ir.Graph, inputs: tuple[TensorSpec, ...], path: Path | None) -> Samples:
    return load_samples(path, inputs) if path is not None else parity.generated_samples(inputs, table_rows(graph))


def _prove(
    kind: SourceKind,
    source: Path,
    staging: Path,
    outputs: tuple[TensorSpec, ...],
    samples: Samples,
    options: ConvertOptions,
) -> Measured:
    """Compare the written graph with its source, report it, and keep the golden samples."""
    names = [spec.name for spec in outputs]
    try:
        expected = parity.run_source(kind, source, samples, names, options.source_options, options.limits())
    except ModelError as refused:
        if options.samples is not None:
            raise
        raise ModelError(f"{refused}; the samples were generated: give real ones with --samples") from refused
    found = run_all(load_graph(staging / "graph" / LayerKind.GRAPH.file_name), samples)
    numbers = measured(expected, found, samples.labels)
    tolerance = _tolerance(kind, source)
    report = parity.report_on(expected, found, numbers, tolerance=tolerance, generated=options.samples is None)
    if not options.allow_mismatch:
        parity.check(report, source)
    (staging / "reports" / "parity.json").write_bytes(encode_readable(report))
    parity.write_golden(staging / "graph", samples, expected)
    return numbers


def _tolerance(kind: SourceKind, source: Path) -> float:
    """Return how far the graph, which computes in float32, may be from its source."""
    if kind is not SourceKind.KERAS:
        return parity.FLOAT_TOLERANCE
    from convert.from_keras.reader import half_precision_in

    half = half_precision_in(source)
    return parity.FLOAT_TOLERANCE if half is None else parity.HALF_TOLERANCES[half]


def _write_float_variant(staging: Path, record: BuildRecord, numbers: Measured) -> None:
    """Make the variant whose files are the graph's own. Copies: ONNX's loader refuses weights that have hard links."""
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
        measured=numbers,
    )
    VariantDirectory.write(folder, config)


def _digest_of(source: Path) -> Digest:
    if source.is_file():
        with source.open("rb") as stream:
            return Digest("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())
    whole = hashlib.sha256()
    for path in sorted(one for one in source.rglob("*") if one.is_file()):
        whole.update(f"{path.relative_to(source).as_posix()}\0{_digest_of(path)}\n".encode())
    return Digest("sha256:" + whole.hexdigest())
