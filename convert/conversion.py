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
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from convert.graph.border import move_batch_axes, set_inputs
from convert.graph.interface import check_sample_axes, checked_labels, specs_of
from convert.graph.outputs import with_measures
from convert.graph.shapes import check_shapes, fix_shapes
from convert.options import ConvertOptions
from convert.passes.simplify import simplify
from convert.read_source import SourceModel, read_source
from convert.source import parity
from convert.source.identify import SourceKind, identify
from convert.source.layout import SourceLayout
from convert.source.precision import rounds_in_float32
from convert.split import AUTO, SupportedOperators, split
from convert.verification import WrittenGraph, candidate_samples, verify, with_samples
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, Cut, write_record
from edgewright.contracts.names import Digest
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Measure,
    Measured,
    Precision,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.errors import BadInputError, OperationError
from edgewright.graphs.files import write_graph
from edgewright.steps import step
from hardware_profiles.catalog import load_profile
from hardware_profiles.hardware_profile import HardwareProfile

__all__ = ["ConvertOptions", "convert_model", "describe_cut"]

log = logging.getLogger(__name__)

_GRAPH_LAYERS = (LayerKind.GRAPH, LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


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
        with step(f"the conversion of {source}", "export the model with another operator set"):
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
    layout = _at_border(model, options)
    simplify(model)
    check_shapes(model, profiles)
    cut, parts = split(model, _head_from(source_model, options), _accelerators(profiles))
    inputs = specs_of(model.graph.inputs, layout.batch_axes)
    outputs = specs_of(model.graph.outputs, layout.batch_axes)
    check_sample_axes(inputs, outputs)
    labels = checked_labels(options.labels or source_model.labels, outputs)
    class_values = source_model.labels if labels != source_model.labels else ()
    outputs = with_measures(model.graph, outputs, _predicts(kind, labels))
    candidates = candidate_samples(model.graph, inputs, source_model, options, labels)
    with BuildDirectory.creating(build) as staging:
        started = time.perf_counter()
        write_graph(staging / "graph", model, parts.is_head)
        log.info("wrote graph nodes=%d took_ms=%.0f", len(model.graph), _milliseconds(started))
        started = time.perf_counter()
        written = WrittenGraph.open(staging, model.graph, outputs, layout, source=source)
        run = with_samples(kind, source, written, candidates, options)
        with step("the comparison with the source"):
            accuracy = verify(run, tolerance=source_model.tolerance, options=options, source=source)
        log.info("compared with source samples=%d took_ms=%.0f", accuracy.sample_count, _milliseconds(started))
        record = BuildRecord(
            source_kind="sklearn" if kind is SourceKind.PICKLE else kind.value,
            source_digest=_digest_of(source),
            inputs=inputs,
            outputs=outputs,
            tolerance=parity.float_tolerance(accuracy),
            labels=labels,
            class_values=class_values,
            cut=cut,
            preprocessing=options.preprocessing or source_model.preprocessing,
            independent_samples=run.graph.independent,
        )
        write_record(staging, record)
        _write_float_variant(staging, record, accuracy)
    return BuildDirectory.open(build)


def _at_border(model: ir.Model, options: ConvertOptions) -> SourceLayout:
    """Make the inputs and outputs of the graph those of a device; return their layout in the source."""
    names = tuple(str(value.name) for value in model.graph.inputs)
    constants = set_inputs(model, options.constants)
    shapes = fix_shapes(model, options.shapes, options.batch_axes)
    batch_axes = move_batch_axes(model, options.batch_axes)
    return SourceLayout(inputs=names, constants=constants, batch_axes=batch_axes, shapes=shapes)


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


def _predicts(kind: SourceKind, labels: tuple[str, ...]) -> str:
    """Return the measure of the first output as the source declares it; empty if it does not."""
    if labels:
        return Measure.CLASSES
    return Measure.VALUES if kind in parity.TABLE_KINDS else ""


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
        class_values=record.class_values,
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
