"""Compile a variant of a build directory for an NPU, and add what came out as a variant of its own.

    source     the quantized variant that is compiled: the one that is named, or the one in the NPU's number format
    compile    its graph -> program and coverage (accel/npu/compiler/compile.py)
    target     graph.onnx with an EPContext node, head.onnx, head.weights, npu.program
    check      the golden samples, through the backend that devices use
    measure    accuracy on the user's samples, when some are given

The variant appears when all of that went well, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from accel.backends.choose import load_session
from accel.evaluate import evaluate_variant, reference_outputs
from accel.golden import check_golden
from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.compiler.epcontext import Targeted, target
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
from hardware_profiles.hardware_profile import NPU_HASH, NPU_RECORD

PREFIX = "npu-"
SOURCES = {"int8": (Precision.NPU_INT8,), "mxint8": (Precision.NPU_MXINT8, Precision.NPU_INT8)}
"""The variants that are compiled when none is named, by the NPU's number format, best first: one that shifts the products of
blocks runs weights without blocks too. int8 for processors is rounded, and arranged, as an NPU would not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileReport:
    """`reports/compile-<profile>.json`: where every operator runs, and what the NPU's part costs."""

    variant: str
    source: str
    coverage: tuple[CoverageRow, ...]
    estimate: Estimate


def compile_variant(
    build: BuildDirectory, profile: NpuProfile, *, source: str | None = None, samples: Path | None = None
) -> CompileReport:
    """Add the variant `npu-<profile>` to `build` and return where its operators run.

    Args:
        build: the build directory.
        profile: the NPU.
        source: the quantized variant to compile; None takes npu-int8, or for number format mxint8 rather npu-mxint8.
        samples: a `.npz` to measure accuracy on; None measures nothing.

    Raises:
        NotFoundError: there is no such variant, or none that is quantized.
        ModelError: no operator can run on the NPU, or the model does not fit it.
        ParityError: the result fails the golden samples; nothing is kept.
    """
    chosen = _source(build, source, profile)
    model = _read_graph(chosen)
    cut = build.record.cut
    compiled = compile_model(model, profile, cut.tensors if cut is not None and cut.featurizer_nodes > 0 else ())
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
    """Return what a variant for `profile` is called."""
    return PREFIX + profile.name.removeprefix(PREFIX)


def _source(build: BuildDirectory, name: str | None, profile: NpuProfile) -> VariantDirectory:
    wanted = SOURCES[profile.number_format]
    if name is not None:
        variant = build.variant(name)
        if variant.config.backend == BackendName.NPU:
            raise BadInputError(f"{name} is compiled already; name the quantized variant that it came from, such as {wanted[0]}")
        return variant
    known = {variant.config.variant: variant for variant in build.variants()}
    found = next((known[source] for source in wanted if source in known), None)
    if found is None:
        raise NotFoundError(
            f"{build.path} must have the variant {' or '.join(wanted)}, but it has {', '.join(known) or 'none'}; "
            f"run: edgewright quantize {build.path} --scheme {wanted[0]} --samples X.npz"
        )
    return found


def _read_graph(variant: VariantDirectory) -> onnx.ModelProto:
    path = variant.file(LayerKind.GRAPH)
    try:
        return onnx.load(path)
    except Exception as wrong:  # protobuf raises kinds of its own
        raise ModelError(f"{path} must be an ONNX graph with its weights beside it, but it cannot be read") from wrong


def _write_layers(folder: Path, compiled: Compiled, targeted: Targeted) -> None:
    (folder / LayerKind.NPU_PROGRAM.file_name).write_bytes(compiled.program.to_bytes())
    _save(targeted.graph, folder / LayerKind.GRAPH.file_name)
    if targeted.head is not None:
        _save(targeted.head, folder / LayerKind.HEAD_GRAPH.file_name)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Both graphs have the same weights in the same order, so both write the same bytes to the one file that they share."""
    weights = path.with_name(LayerKind.HEAD_WEIGHTS.file_name)
    weights.unlink(missing_ok=True)  # onnx appends
    onnx.external_data_helper.convert_model_to_external_data(model, location=weights.name, size_threshold=0)
    onnx.save_model(model, path)


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
    """Return what the NPU multiplies: weights in blocks only where it tells them apart."""
    blocks = source.config.precision is Precision.NPU_MXINT8 and profile.shift_rows > 0
    return Precision.NPU_MXINT8 if blocks else Precision.NPU_INT8


def _check_golden(variant: VariantDirectory, build: BuildDirectory) -> None:
    """Run the golden samples on the functional model: what is not right here is right nowhere."""
    if not (build.graph / LayerKind.GOLDEN_INPUTS.file_name).is_file():
        return
    session = load_session(variant, backend=BackendName.NPU)
    try:
        result = check_golden(session, variant, build.graph)
    finally:
        session.close()
    if result.failure is not None:
        raise ParityError(
            f"{variant.config.variant} must answer the golden samples as its source does, but {result.failure}; "
            "quantize with more or better samples"
        )


def _measure(build: BuildDirectory, variant: VariantDirectory, path: Path) -> Measured:
    samples = load_samples(path, build.record.inputs)
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    evaluation, _outputs = evaluate_variant(variant, samples, reference, backend=BackendName.NPU)
    return evaluation.as_measured()
