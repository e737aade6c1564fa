"""`edgewright quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from accel.evaluate import EVALUATION_COLUMNS, Evaluation, evaluate_variant, evaluation_row, reference_outputs
from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import FLOAT_VARIANT, BackendName
from edgewright.errors import BadInputError
from hardware_profiles.catalog import load_profile
from quantize.calibration.thresholds import Calibration
from quantize.int8.int8 import Int8Settings
from quantize.npu.functional import functional_evaluation, functional_row
from quantize.quantization import QuantizeOptions, options_for, quantize, samples_for
from quantize.scheme import Scheme


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    required=True,
    type=click.Choice([scheme.value for scheme in Scheme]),
    help="What to make; may be given several times.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    help="Real samples (.npz): they calibrate and measure. Only mxint8 does without, and is then measured on the golden ones.",
)
@click.option("--max-drop", metavar="SHARE", help="Keep nothing that loses more accuracy than this: 1% or 0.01.")
@click.option(
    "--calibration",
    default=Int8Settings().calibration.value,
    show_default=True,
    type=click.Choice([method.value for method in Calibration]),
    help="How int8 chooses the range of values that it covers.",
)
@click.option(
    "--backend",
    default=BackendName.ONNXRUNTIME.value,
    show_default=True,
    type=click.Choice([BackendName.ONNXRUNTIME.value, BackendName.OPENVINO.value]),
    help="The runtime to tune for; for openvino, NNCF makes the variant int8-openvino.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help="Make int8 and mixed in the integers that this hardware multiplies best; may be given several times.",
)
@click.option("--equalize", is_flag=True, help="Even out the channels of neighbouring layers before rounding to int8.")
@common_options
def command(
    build: Path,
    schemes: tuple[str, ...],
    samples: Path | None,
    max_drop: str | None,
    calibration: str,
    backend: str,
    profiles: tuple[str, ...],
    equalize: bool,
    as_json: bool,
) -> None:
    """Add a variant of less precision, with its measured accuracy.

    Prints accuracy, agreement with the source model, size and latency of the float variant and of each one that was made, and
    for npu-int8 and npu-mxint8 what the NPU's functional model, which computes what a board computes, makes of it.
    """
    opened = BuildDirectory.open(build)
    allowed = None if max_drop is None else parse_share(max_drop)
    int8 = Int8Settings(calibration=Calibration(calibration), equalize=equalize)
    hardware = [load_profile(name) for name in profiles]
    wanted = [
        options
        for scheme in schemes
        for options in options_for(
            QuantizeOptions(scheme=Scheme(scheme), samples=samples, backend=backend, max_drop=allowed, int8=int8), hardware
        )
    ]
    for options in wanted:
        quantize(opened, options)
    names = [options.variant for options in wanted]
    evaluations = _evaluate(opened, samples_for(opened, wanted[0]), (FLOAT_VARIANT, *names))
    functional = [found for name in names if (found := functional_evaluation(opened, name)) is not None]
    if as_json:
        print_json([*evaluations, *functional])
    else:
        sizes = {variant.config.variant: variant.config.size_bytes for variant in opened.variants()}
        rows = [evaluation_row(one, sizes[one.variant]) for one in evaluations]
        print_table(EVALUATION_COLUMNS, [*rows, *(functional_row(one, sizes[one.variant]) for one in functional)])


def parse_share(text: str) -> float:
    """Read `1%` or `0.01`; raise `BadInputError` when it is neither."""
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError as wrong:
        raise BadInputError(f"--max-drop must be a share like 1% or 0.01, not {text!r}") from wrong
    if not 0 <= share <= 1:
        raise BadInputError(f"--max-drop must be between 0% and 100%, not {text!r}")
    return share


def _evaluate(build: BuildDirectory, samples: Samples, names: tuple[str, ...]) -> list[Evaluation]:
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    variants = [build.variant(name) for name in names]
    return [evaluate_variant(variant, samples, reference, backend=variant.config.backend) for variant in variants]
