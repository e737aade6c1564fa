"""Compile a variant of a build directory for an NPU, and add the result as another variant.

    source     the quantized variant to compile: the named one, or the one in the NPU's number format
    compile    its graph -> program and coverage (accel/npu/compiler/compile.py)
    target     graph.onnx with EPContext nodes, host_parts.tar, head.onnx, head.weights, npu.program
    check      the golden samples, through the backend that devices use
    measure    accuracy on the user's samples, if given

The variant appears only if all steps succeed.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from accel.backends.choose import load_session
from accel.evaluate import evaluate_variant, reference_outputs
from accel.golden import check_golden
from accel.npu.compiler.compile import Compiled
from accel.npu.compiler.epcontext import Targeted, target
from accel.npu.compiler.partition import compile_partitioned
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.model.report import Estimate, estimate
from accel.npu.profile import NpuProfile
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import load_samples
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Measured,
    Precision,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.errors import BadInputError, ModelError, NotFoundError, ParityError
from edgewright.graphs.files import write_graph
from edgewright.steps import step
from hardware_profiles.hardware_profile import NPU_HASH, NPU_RECORD
from quantize.scheme import check_source

PREFIX = "npu-"
SOURCES = {"int8": (Precision.NPU_INT8,), "mxint8": (Precision.NPU_MXINT8, Precision.NPU_INT8)}
"""The default variants by the NPU's number format, best first. An NPU that shifts the products of blocks also runs weights
without blocks. The int8 variant for processors has another rounding and layout, so it is never compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileReport:
    """Content of `reports/compile-<profile>.json`: the placement of every operator, and the cost of the NPU's part."""

    variant: str
    source: str
    coverage: tuple[CoverageRow, ...]
    estimate: Estimate


def compile_variant(
    build: BuildDirectory, profile: NpuProfile, *, source: str | None = None, samples: Path | None = None
) -> CompileReport:
    """Add the variant `npu-<profile>` to `build` and return the placement of its operators.

    Args:
        build: the build directory.
        profile: the NPU.
        source: the quantized variant to compile; None selects one by the NPU's number format (`SOURCES`).
        samples: a `.npz` to measure accuracy on; None skips the measurement.

    Raises:
        NotFoundError: the variant does not exist, or no variant is quantized.
        ModelError: the source model is quantized already, no operator can run on the NPU, or the model does not fit it.
        ParityError: the result fails the golden samples; nothing is kept.
    """
    with step(f"compiling {build.path} for {profile.name}", "compile another variant with --variant"):
        return _compiled(build, profile, _source(build, source, profile), samples)


def _compiled(build: BuildDirectory, profile: NpuProfile, chosen: VariantDirectory, samples: Path | None) -> CompileReport:
    model = _read_graph(chosen)
    cut = build.record.cut
    compiled = compile_partitioned(model, profile, cut.tensors if cut is not None and cut.featurizer_nodes > 0 else ())
    name = variant_name(profile)
    targeted = target(model, compiled.program, program_file=LayerKind.NPU_PROGRAM.file_name, partition=name)
    with build.creating_variant(name) as folder:
        _write_layers(folder, compiled, targeted)
        variant = _write_config(folder, chosen, name, profile)
        _check_golden(variant, build)
        if samples is not None:
            VariantDirectory.write(folder, replace(variant.config, measured=_measure(build, variant, samples)))
    report = CompileReport(
        variant=name,
        source=chosen.config.variant,
        coverage=compiled.coverage,
        estimate=estimate(compiled.program, profile),
    )
    build.write_report(f"compile-{profile.name}", report)
    return report


def variant_name(profile: NpuProfile) -> str:
    """Return the name of the variant for `profile`."""
    return PREFIX + profile.name.removeprefix(PREFIX)


def _source(build: BuildDirectory, name: str | None, profile: NpuProfile) -> VariantDirectory:
    sources = SOURCES[profile.number_format]
    if name is not None:
        variant = build.variant(name)
        if variant.config.backend == BackendName.NPU:
            raise BadInputError(f"{name} is already compiled; specify its quantized source, such as {sources[0]}")
        return variant
    variants = {variant.config.variant: variant for variant in build.variants()}
    chosen = next((variants[source] for source in sources if source in variants), None)
    if chosen is None:
        check_source(build)  # no scheme quantizes a model that is quantized in its source
        raise NotFoundError(
            f"{build.path} must have the variant {' or '.join(sources)}, but it has {', '.join(variants) or 'none'}; "
            f"run: edgewright quantize {shlex.quote(str(build.path))} --scheme {sources[0]} --samples X.npz"
        )
    return chosen


def _read_graph(variant: VariantDirectory) -> onnx.ModelProto:
    path = variant.file(LayerKind.GRAPH)
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf raises its own classes
        raise ModelError(f"{path} must be an ONNX graph with its weights in the same directory, but it cannot be read") from error


def _write_layers(folder: Path, compiled: Compiled, targeted: Targeted) -> None:
    (folder / LayerKind.NPU_PROGRAM.file_name).write_bytes(compiled.program.to_bytes())
    head = targeted.host.head
    if head is not None:
        write_graph(folder, ir.from_proto(head), lambda _node: True, file_name=LayerKind.HEAD_GRAPH.file_name)
    parts = {f"{at}.onnx": part for at, part in enumerate(targeted.host.before) if part is not None}
    if parts:
        _write_tar(folder / LayerKind.HOST_PARTS.file_name, parts)
    _write_whole(folder, targeted.graph)


def _write_tar(path: Path, graphs: Mapping[str, onnx.ModelProto]) -> None:
    """Write graphs with their weights; the same graphs give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, graph in graphs.items():
            content = graph.SerializeToString(deterministic=True)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _write_whole(folder: Path, graph: onnx.ModelProto) -> None:
    """Write the whole graph; its weights are those of the head's file, or in the graph itself if only other parts have them."""
    head_path = folder / LayerKind.HEAD_GRAPH.file_name
    head = onnx.load(head_path, load_external_data=False).graph if head_path.is_file() else onnx.GraphProto()
    stored = {tensor.name: tensor for tensor in head.initializer}
    for tensor in graph.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(stored[tensor.name])
    (folder / LayerKind.GRAPH.file_name).write_bytes(graph.SerializeToString(deterministic=True))


def _write_config(folder: Path, source: VariantDirectory, name: str, profile: NpuProfile) -> VariantDirectory:
    config = replace(
        source.config,
        variant=name,
        backend=BackendName.NPU,
        precision=_precision(source, profile),
        size_bytes=size_of_weights_and_graph(folder),
        measured=None,
        profiles=(),
        properties={NPU_HASH: profile.hash.hex(), NPU_RECORD: wire.encode(profile).decode()},
    )
    return VariantDirectory.write(folder, config)


def _precision(source: VariantDirectory, profile: NpuProfile) -> Precision:
    """Return the precision on the NPU: weights in blocks only if the NPU shifts the products of blocks."""
    blocks = source.config.precision is Precision.NPU_MXINT8 and profile.shift_rows > 0
    return Precision.NPU_MXINT8 if blocks else Precision.NPU_INT8


def _check_golden(variant: VariantDirectory, build: BuildDirectory) -> None:
    """Run the golden samples on the functional model, which has the same bits as a board."""
    if not (build.graph / LayerKind.GOLDEN_INPUTS.file_name).is_file():
        return
    session = load_session(variant, backend=BackendName.NPU)
    try:
        result = check_golden(session, variant, build.graph)
    finally:
        session.close()
    if result.failure is not None:
        raise ParityError(
            f"{variant.config.variant} must pass the golden samples, but {result.failure}; quantize with more or better samples"
        )


def _measure(build: BuildDirectory, variant: VariantDirectory, path: Path) -> Measured:
    samples = load_samples(path, build.record.inputs, build.record.labels, build.record.class_values)
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    evaluation, _outputs = evaluate_variant(variant, samples, reference, backend=BackendName.NPU)
    return evaluation.as_measured()
