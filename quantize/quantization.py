"""Add a variant of less precision to a build directory, with its measured accuracy.

samples     read and checked: empty, constant or wrongly scaled ones calibrate nothing; mxint8 needs none
make        the scheme's graph and weights
evaluate    against the float variant and the labels
accept      within the drop that the user allows, or not kept
tolerance   what a device's golden check will hold it to
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

from accel.backends.choose import load_session
from accel.evaluate import Evaluation, evaluate_variant, reference_outputs
from accel.measure import accuracy, measured, run_all
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors, load_samples, read_npz
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Precision,
    Tolerance,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.errors import BadInputError, ModelError, ParityError, SamplesError
from hardware_profiles.hardware_profile import INT8_TYPES, HardwareProfile, Int8Types
from quantize.calibration.calibrate import check_calibration
from quantize.fp16 import make_fp16
from quantize.int8.int8 import Int8Settings, make_int8
from quantize.int8.mixed_precision import DEFAULT_MAX_DROP, make_mixed
from quantize.int8.openvino import check_installed, make_openvino_int8
from quantize.mx.mxint8 import make_mxint8
from quantize.npu.functional import FUNCTIONAL_PREFIX, FunctionalEvaluation, evaluate_functional
from quantize.npu.int8 import make_npu_int8
from quantize.npu.mxint8 import make_npu_mxint8
from quantize.report.detail import PREFIX, describe, read_details, samples_digest
from quantize.scheme import QuantizationResult, Scheme, check_source

log = logging.getLogger(__name__)

Maker = Callable[[BuildDirectory, Samples, Path], QuantizationResult | None]

MAKERS: dict[Scheme, Maker] = {Scheme.FP16: make_fp16, Scheme.MXINT8: make_mxint8}

INTEGER_SCHEMES = {Scheme.INT8, Scheme.MIXED}
"""The schemes whose integers the processor itself multiplies, in the types that it likes."""
_SUFFIXES = {Int8Types.U8S8: "", Int8Types.U8S7: "-avx2", Int8Types.S8S8: "-arm64"}

FP16_DIFFERENCE = 1e-2
AGREEMENT_MARGIN = 0.1
DIFFERENCE_MARGIN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """What the user asks for."""

    scheme: Scheme
    samples: Path | None
    """Real samples: they calibrate, and they measure what was lost; None where the scheme learns nothing from them."""
    backend: str = BackendName.ONNXRUNTIME
    """The runtime that the variant is tuned for and measured on; only int8 is made for another than onnxruntime."""
    int8: Int8Settings = field(default_factory=Int8Settings)
    """How integers are made, for the schemes that make some."""
    max_drop: float | None = None
    """Largest share of accuracy (of agreement, without labels) that may be lost; None keeps whatever comes out."""

    @property
    def variant(self) -> str:
        """The name of what is made: the scheme's, then the backend or the processor where it is not what most have."""
        if self.backend != BackendName.ONNXRUNTIME:
            return f"{self.scheme.value}-{self.backend}"
        return self.scheme.value + (_SUFFIXES[self.int8.types] if self.scheme in INTEGER_SCHEMES else "")


def quantize(build: BuildDirectory, options: QuantizeOptions) -> VariantDirectory:
    """Make the variant that `options` describe, measure it, and return it; its evaluation is in `reports/`.

    Raises:
        BadInputError: the backend has no such scheme, or is not installed.
        ModelError: the graph is quantized already, or has its weights in another precision than float32.
        SamplesError: the samples do not fit, or cannot calibrate.
        ParityError: more accuracy is lost than allowed; nothing is kept.
    """
    _check_backend(options)
    check_source(build)
    samples = samples_for(build, options)
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    with build.creating_variant(options.variant) as folder:
        made = _maker(options)(build, samples, folder) or QuantizationResult()
        variant = VariantDirectory.write(folder, _config(build, options, folder))
        evaluation = evaluate_variant(variant, samples, reference, backend=options.backend)
        functional = _on_functional_model(variant, samples, reference)
        allowed = _allowed_drop(options)
        for one in (evaluation, functional):
            if one is not None and allowed is not None:
                _check_drop(one, samples, reference, allowed)
        tolerance = _tolerance(build, variant, evaluation)
        VariantDirectory.write(folder, replace(variant.config, measured=evaluation.as_measured(), tolerance=tolerance))
        detail = describe(build, variant, evaluation, samples, reference, made)
    build.write_report(f"quantize-{options.variant}", evaluation)
    build.write_report(f"{PREFIX}{options.variant}", detail)
    if functional is not None:
        build.write_report(f"{FUNCTIONAL_PREFIX}{options.variant}", functional)
    _describe_float(build, samples, reference)
    return build.variant(options.variant)


def _check_backend(options: QuantizeOptions) -> None:
    if options.backend == BackendName.ONNXRUNTIME:
        return
    if options.backend != BackendName.OPENVINO or options.scheme is not Scheme.INT8:
        raise BadInputError(
            f"--backend must be {BackendName.ONNXRUNTIME}, or {BackendName.OPENVINO} with --scheme {Scheme.INT8}, "
            f"not {options.backend} with --scheme {options.scheme}: "
            f"{BackendName.OPENVINO} runs what is made for {BackendName.ONNXRUNTIME} as well"
        )
    if options.int8 != Int8Settings():
        raise BadInputError(
            f"--calibration and --equalize are for --backend {BackendName.ONNXRUNTIME}: "
            f"{BackendName.OPENVINO}'s int8 covers all values seen"
        )
    check_installed()


def options_for(options: QuantizeOptions, profiles: Sequence[HardwareProfile]) -> list[QuantizeOptions]:
    """Return what to make so that each of `profiles` gets the scheme in the integers that it multiplies best.

    Raises:
        BadInputError: none of the profiles runs what the scheme makes.
    """
    fitting = [profile for profile in profiles if options.scheme.precision in profile.precisions]
    if profiles and not fitting:
        told = "; ".join(f"{profile.name} runs {', '.join(profile.precisions)}" for profile in profiles)
        raise BadInputError(f"--profile must name hardware that runs {options.scheme}, but {told}")
    types = dict.fromkeys(profile.int8_types for profile in fitting if profile.int8_types is not None)
    if options.scheme not in INTEGER_SCHEMES or options.backend != BackendName.ONNXRUNTIME or not types:
        return [options]
    return [replace(options, int8=replace(options.int8, types=one)) for one in types]


def samples_for(build: BuildDirectory, options: QuantizeOptions) -> Samples:
    """Return the user's samples, or the build's golden ones where none are given and none are needed to make the variant.

    Raises:
        SamplesError: none are given to a scheme that calibrates, or they do not fit, or cannot calibrate.
    """
    if options.samples is not None:
        samples = load_samples(options.samples, build.record.inputs)
        check_calibration(samples, build, options.samples)
        return samples
    if options.scheme.needs_samples:
        raise SamplesError(f"{options.scheme} must see real samples, which calibrate it, but none are given: add --samples X.npz")
    return load_samples(build.graph / LayerKind.GOLDEN_INPUTS.file_name, build.record.inputs)


def _on_functional_model(variant: VariantDirectory, samples: Samples, reference: Tensors) -> FunctionalEvaluation | None:
    """Measure a variant for the NPU by the NPU's own rounding; one too large for the functional model is not measured so."""
    if variant.config.precision not in (Precision.NPU_INT8, Precision.NPU_MXINT8):
        return None
    session = load_session(variant, backend=BackendName.ONNXRUNTIME)
    try:
        by_onnxruntime = run_all(session, samples)
    finally:
        session.close()
    try:
        return evaluate_functional(variant, onnx.load(variant.file(LayerKind.GRAPH)), samples, reference, by_onnxruntime)
    except ModelError as refused:
        log.warning("not measured on the NPU's functional model: %s", refused)
        return None


def _describe_float(build: BuildDirectory, samples: Samples, reference: Tensors) -> None:
    """Measure the float variant for the report, unless that was done on the same samples."""
    known = read_details(build).get(FLOAT_VARIANT)
    if known is None or known.samples != samples_digest(samples):
        variant = build.variant(FLOAT_VARIANT)
        evaluation = evaluate_variant(variant, samples, reference, backend=BackendName.ONNXRUNTIME)
        build.write_report(
            f"{PREFIX}{FLOAT_VARIANT}", describe(build, variant, evaluation, samples, reference, QuantizationResult())
        )


def _allowed_drop(options: QuantizeOptions) -> float | None:
    """Return the budget; the search of mixed precision needs one in any case."""
    return DEFAULT_MAX_DROP if options.max_drop is None and options.scheme is Scheme.MIXED else options.max_drop


def _maker(options: QuantizeOptions) -> Maker:
    if options.backend == BackendName.OPENVINO:
        return make_openvino_int8
    if options.scheme is Scheme.INT8:
        return partial(make_int8, settings=options.int8)
    if options.scheme is Scheme.NPU_INT8:
        return partial(make_npu_int8, settings=options.int8)
    if options.scheme is Scheme.NPU_MXINT8:
        return partial(make_npu_mxint8, settings=options.int8)
    if options.scheme is Scheme.MIXED:
        return partial(make_mixed, settings=options.int8, max_drop=_allowed_drop(options) or 0.0)
    return MAKERS[options.scheme]


def _config(build: BuildDirectory, options: QuantizeOptions, folder: Path) -> VariantConfig:
    record = build.record
    return VariantConfig(
        variant=options.variant,
        backend=options.backend,
        precision=options.scheme.precision,
        inputs=record.inputs,
        outputs=record.outputs,
        tolerance=record.tolerance,
        size_bytes=size_of_weights_and_graph(folder),
        labels=record.labels,
        preprocessing=record.preprocessing,
        properties=_properties(options),
    )


def _properties(options: QuantizeOptions) -> dict[str, str]:
    """Return which integers are inside, where they are of our choosing."""
    ours = options.scheme in INTEGER_SCHEMES and options.backend == BackendName.ONNXRUNTIME
    return {INT8_TYPES: options.int8.types.value} if ours else {}


def _check_drop(evaluation: Evaluation | FunctionalEvaluation, samples: Samples, reference: Tensors, max_drop: float) -> None:
    kept, before = evaluation.agreement, 1.0
    what = "agreement with the float model"
    if evaluation.accuracy is not None and samples.labels is not None:
        before, kept, what = accuracy(next(iter(reference.values())), samples.labels), evaluation.accuracy, "accuracy"
    if before - kept > max_drop:
        where = f" on the {evaluation.backend}" if isinstance(evaluation, FunctionalEvaluation) else ""
        raise ParityError(
            f"{evaluation.variant}{where} may lose at most {max_drop:.2%} of {what}, "
            f"but it falls from {before:.2%} to {kept:.2%}: "
            "allow more with --max-drop, give more samples, or use fp16"
        )


def _tolerance(build: BuildDirectory, variant: VariantDirectory, evaluation: Evaluation) -> Tolerance:
    """Return what the variant keeps on the golden samples, with a margin for other processors; a broken one is far outside."""
    golden = load_samples(build.graph / LayerKind.GOLDEN_INPUTS.file_name, variant.config.inputs)
    expected = read_npz(build.graph / LayerKind.GOLDEN_OUTPUTS.file_name)
    session = load_session(variant, backend=evaluation.backend)
    try:
        found = measured(expected, run_all(session, golden), None)
    finally:
        session.close()
    if (
        variant.config.precision is Precision.FP16
        and found.max_relative_difference < FP16_DIFFERENCE / 2
        and found.agreement == 1.0
    ):
        return Tolerance(max_relative_difference=FP16_DIFFERENCE, min_agreement=1.0)
    return Tolerance(
        max_relative_difference=max(
            DIFFERENCE_MARGIN * found.max_relative_difference,
            DIFFERENCE_MARGIN / 2 * evaluation.max_relative_difference,
            FP16_DIFFERENCE,
        ),
        min_agreement=max(0.0, found.agreement - AGREEMENT_MARGIN),
    )
