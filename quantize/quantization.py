"""Add a variant of lower precision to a build directory, with its measured accuracy.

samples     read and validated: empty, constant or wrongly scaled ones cannot calibrate; mxint8 needs none
baseline    one scoring pass of the float variant, which gives the reference outputs
make        the scheme's graph and weights
evaluate    one scoring pass of the variant, against the reference outputs and the labels
accept      the variant is kept only within the drop that the user allows
tolerance   the limits for the golden check on a device
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

from accel.backends.choose import load_session
from accel.evaluate import Evaluation, evaluate_variant
from accel.first_run import FirstRuns
from accel.independence import samples_are_independent
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors, load_samples
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Precision,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.errors import BadInputError, ModelError, SamplesError
from edgewright.progress import Progress, silent
from edgewright.steps import step
from hardware_profiles.hardware_profile import INT8_TYPES, HardwareProfile, Int8Types
from quantize.acceptance import check_drops, tolerance_of
from quantize.calibration.calibrate import check_calibration
from quantize.dynamic.dynamic import make_dynamic
from quantize.fp16 import make_fp16
from quantize.int8.int8 import Int8Settings, make_int8
from quantize.int8.mixed_precision import DEFAULT_MAX_DROP, make_mixed
from quantize.int8.openvino import check_installed, make_openvino_int8
from quantize.mx.mxint8 import make_mxint8
from quantize.npu.functional import FUNCTIONAL_PREFIX, FunctionalEvaluation, evaluate_functional
from quantize.npu.int8 import make_npu_int8
from quantize.npu.mxint8 import make_npu_mxint8
from quantize.report.detail import PREFIX, Scoring, VariantDetail, describe, samples_digest
from quantize.scheme import QuantizationResult, Scheme, check_size, check_source
from quantize.zero_inputs import check_zero_input

log = logging.getLogger(__name__)

Maker = Callable[[BuildDirectory, Samples, Path], QuantizationResult | None]

INTEGER_SCHEMES = {Scheme.INT8, Scheme.MIXED}
"""The schemes whose integers the processor itself multiplies, in the types that are fastest on it."""
_SUFFIXES = {Int8Types.U8S8: "", Int8Types.U8S7: "-avx2", Int8Types.S8S8: "-arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """The user's request for one variant."""

    scheme: Scheme
    samples: Path | None
    """Real samples for calibration and measurement; None for a scheme without calibration."""
    backend: str = BackendName.ONNXRUNTIME
    """The backend that the variant is tuned for and measured on; only int8 supports others than onnxruntime."""
    int8: Int8Settings = field(default_factory=Int8Settings)
    """Settings of the integer schemes."""
    max_drop: float | None = None
    """Largest share of accuracy (of agreement, without labels) that may be lost; None keeps any result."""

    @property
    def variant(self) -> str:
        """The variant's name: the scheme, with the backend or the integer types as suffix if they are not the usual ones."""
        if self.backend != BackendName.ONNXRUNTIME:
            return f"{self.scheme.value}-{self.backend}"
        return self.scheme.value + (_SUFFIXES[self.int8.types] if self.scheme in INTEGER_SCHEMES else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The float variant, scored once on a set of samples."""

    samples: Samples
    outputs: Tensors
    """The reference outputs for every other variant."""
    detail: VariantDetail


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A new variant with its measurements, which are also stored in the build's `reports/`."""

    variant: VariantDirectory
    evaluation: Evaluation
    baseline: Evaluation
    """The float variant on the same samples."""
    functional: FunctionalEvaluation | None
    """On the NPU's functional model; None for variants of other hardware, or too large for the model."""


def quantize_all(build: BuildDirectory, requests: Sequence[QuantizeOptions], *, progress: Progress = silent) -> list[Quantized]:
    """Make one variant per request as `quantize` does, but score the float variant only once per sample file."""
    baselines: dict[Path | None, Baseline] = {}
    results: list[Quantized] = []
    with FirstRuns() as first_runs:
        for options in requests:
            if options.samples not in baselines:
                check_request(build, options)
                baselines[options.samples] = score_float(build, samples_for(build, options), first_runs)
            baseline = baselines[options.samples]
            results.append(quantize(build, options, baseline=baseline, first_runs=first_runs, progress=progress))
    return results


def quantize(
    build: BuildDirectory,
    options: QuantizeOptions,
    *,
    baseline: Baseline | None = None,
    first_runs: FirstRuns | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Make the variant that `options` describe, measure it, and store the variant and its reports.

    Args:
        build: the build directory; it must hold the float variant.
        options: the scheme, the samples and the limits.
        baseline: the float variant's scores on the same samples; None scores it.
        first_runs: the worker process that loads and runs new graphs first; None starts one.
        progress: shows the progress of long loops.

    Raises:
        BadInputError: the backend does not have this scheme, or is not installed.
        ModelError: the graph is already quantized, its weights are not float32, or the backend crashes on it.
        SamplesError: the samples do not fit, or cannot calibrate.
        ParityError: more accuracy is lost than allowed; nothing is kept.
    """
    check_request(build, options)
    scheme = step(f"the quantization of {build.path} to {options.variant}", "use another scheme")
    with FirstRuns.shared(first_runs) as runs, scheme:
        baseline = baseline or score_float(build, samples_for(build, options), runs)
        return _quantized(build, options, baseline, first_runs=runs, progress=progress)


def _quantized(
    build: BuildDirectory, options: QuantizeOptions, baseline: Baseline, *, first_runs: FirstRuns, progress: Progress
) -> Quantized:
    samples, reference = baseline.samples, baseline.outputs
    with build.creating_variant(options.variant) as folder:
        make = _maker(options, reference, first_runs, progress)
        result = make(build, samples, folder) or QuantizationResult()
        config = _config(build, options, folder)
        config = replace(config, independent_samples=config.independent_samples and not result.batch_ranges)
        variant = VariantDirectory.write(folder, config)
        first_runs.check_variant(variant, backend=options.backend)
        variant = _with_independence(variant, samples, options.backend)
        evaluation, outputs = evaluate_variant(variant, samples, reference, backend=options.backend)
        scoring = Scoring(samples=samples, digest=baseline.detail.samples, reference=reference, outputs=outputs)
        check_zero_input(variant, build.variant(FLOAT_VARIANT), samples, backend=evaluation.backend)
        functional = _on_functional_model(variant, scoring, progress)
        check_drops((evaluation, functional), baseline.detail.evaluation, _allowed_drop(options))
        tolerance = tolerance_of(build, variant, evaluation)
        VariantDirectory.write(folder, replace(variant.config, measured=evaluation.as_measured(), tolerance=tolerance))
        detail = describe(build, variant, evaluation, scoring, result, progress=progress)
    build.write_report(f"quantize-{options.variant}", evaluation)
    build.write_report(f"{PREFIX}{options.variant}", detail)
    if functional is not None:
        build.write_report(f"{FUNCTIONAL_PREFIX}{options.variant}", functional)
    build.write_report(f"{PREFIX}{FLOAT_VARIANT}", baseline.detail)
    return Quantized(
        variant=build.variant(options.variant),
        evaluation=evaluation,
        baseline=baseline.detail.evaluation,
        functional=functional,
    )


def remove_quantized(build: BuildDirectory, name: str) -> None:
    """Remove a variant and its reports from the build."""
    build.remove_variant(name)
    for prefix in ("quantize-", PREFIX):
        (build.reports / f"{prefix}{name}.json").unlink(missing_ok=True)


@step("the scoring of the float variant", "export the model with another operator set")
def score_float(build: BuildDirectory, samples: Samples, first_runs: FirstRuns) -> Baseline:
    """Score the float variant once: its outputs are the reference, its evaluation is a row of the report."""
    variant = build.variant(FLOAT_VARIANT)
    first_runs.check_variant(variant)
    evaluation, outputs = evaluate_variant(variant, samples, backend=BackendName.ONNXRUNTIME)
    scoring = Scoring(samples=samples, digest=samples_digest(samples), reference=outputs, outputs=outputs)
    return Baseline(
        samples=samples,
        outputs=outputs,
        detail=describe(build, variant, evaluation, scoring, QuantizationResult()),
    )


def options_for(options: QuantizeOptions, profiles: Sequence[HardwareProfile]) -> list[QuantizeOptions]:
    """Return one request per kind of integers, so that each of `profiles` gets the fastest one for it.

    Raises:
        BadInputError: none of the profiles runs the scheme's precision.
    """
    fitting = [profile for profile in profiles if options.scheme.precision in profile.precisions]
    if profiles and not fitting:
        listed = "; ".join(f"{profile.name} runs {', '.join(profile.precisions)}" for profile in profiles)
        raise BadInputError(f"--profile must name hardware that runs {options.scheme}, but {listed}")
    types = dict.fromkeys(profile.int8_types for profile in fitting if profile.int8_types is not None)
    if options.scheme not in INTEGER_SCHEMES or options.backend != BackendName.ONNXRUNTIME or not types:
        return [options]
    return [replace(options, int8=replace(options.int8, types=one)) for one in types]


def samples_for(build: BuildDirectory, options: QuantizeOptions) -> Samples:
    """Return the user's samples, or the build's golden ones if there are none.

    Raises:
        SamplesError: the samples do not fit, or cannot calibrate.
    """
    if options.samples is not None:
        samples = load_samples(options.samples, build.record.inputs, build.record.labels, build.record.class_values)
        check_calibration(samples, build, options.samples)
        return samples
    return load_samples(build.graph / LayerKind.GOLDEN_INPUTS.file_name, build.record.inputs)


def check_request(build: BuildDirectory, options: QuantizeOptions) -> None:
    """Raise the errors that need no samples."""
    _check_backend(options)
    check_source(build)
    check_size(build, options.scheme)
    if options.samples is None and options.scheme.needs_samples:
        raise SamplesError(f"{options.scheme} needs real samples for calibration, but none are given: add --samples X.npz")


def _check_backend(options: QuantizeOptions) -> None:
    if options.backend == BackendName.ONNXRUNTIME:
        return
    if options.backend != BackendName.OPENVINO or options.scheme is not Scheme.INT8:
        raise BadInputError(
            f"--backend must be {BackendName.ONNXRUNTIME}, or {BackendName.OPENVINO} with --scheme {Scheme.INT8}, "
            f"not {options.backend} with --scheme {options.scheme}: "
            f"{BackendName.OPENVINO} also runs the variants for {BackendName.ONNXRUNTIME}"
        )
    if options.int8 != Int8Settings():
        raise BadInputError(
            f"--calibration and --equalize are for --backend {BackendName.ONNXRUNTIME}: "
            f"int8 for {BackendName.OPENVINO} always covers the full range of the samples"
        )
    check_installed()


def _maker(options: QuantizeOptions, reference: Tensors, first_runs: FirstRuns, progress: Progress) -> Maker:
    if options.backend == BackendName.OPENVINO:
        return partial(make_openvino_int8, progress=progress)
    makers: dict[Scheme, Maker] = {
        Scheme.FP16: partial(make_fp16, reference=reference, first_runs=first_runs, progress=progress),
        Scheme.INT8: partial(make_int8, settings=options.int8, first_runs=first_runs, progress=progress),
        Scheme.MXINT8: make_mxint8,
        Scheme.INT8_DYNAMIC: partial(make_dynamic, progress=progress),
        Scheme.MIXED: partial(
            make_mixed,
            settings=options.int8,
            max_drop=_allowed_drop(options) or 0.0,
            reference=reference,
            first_runs=first_runs,
            progress=progress,
        ),
        Scheme.NPU_INT8: partial(make_npu_int8, settings=options.int8, progress=progress),
        Scheme.NPU_MXINT8: partial(make_npu_mxint8, settings=options.int8, progress=progress),
    }
    return makers[options.scheme]


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
        class_values=record.class_values,
        preprocessing=record.preprocessing,
        independent_samples=record.independent_samples,
        properties=_properties(options),
    )


def _with_independence(variant: VariantDirectory, samples: Samples, backend: str) -> VariantDirectory:
    """Record whether the variant's samples are independent: ranges that are measured over a batch make them dependent."""
    if not variant.config.independent_samples or variant.config.precision in (Precision.NPU_INT8, Precision.NPU_MXINT8):
        return variant
    session = load_session(variant, backend=backend)
    try:
        independent = samples_are_independent(session, samples)
    finally:
        session.close()
    return VariantDirectory.write(variant.path, replace(variant.config, independent_samples=independent))


def _properties(options: QuantizeOptions) -> dict[str, str]:
    """Return the types of the integers, for the schemes that choose them."""
    has_types = options.scheme in INTEGER_SCHEMES and options.backend == BackendName.ONNXRUNTIME
    return {INT8_TYPES: options.int8.types.value} if has_types else {}


def _on_functional_model(variant: VariantDirectory, scoring: Scoring, progress: Progress) -> FunctionalEvaluation | None:
    """Measure a variant for the NPU with the NPU's rounding; return None for other variants, and for too large ones."""
    if variant.config.precision not in (Precision.NPU_INT8, Precision.NPU_MXINT8):
        return None
    model = onnx.load(variant.file(LayerKind.GRAPH))
    try:
        return evaluate_functional(
            variant, model, scoring.samples, scoring.reference, by_onnxruntime=scoring.outputs, progress=progress
        )
    except ModelError as error:
        log.warning("not measured on the NPU's functional model: %s", error)
        return None


def _allowed_drop(options: QuantizeOptions) -> float | None:
    """Return the accuracy budget; the search of mixed precision needs one in any case."""
    return DEFAULT_MAX_DROP if options.max_drop is None and options.scheme is Scheme.MIXED else options.max_drop
