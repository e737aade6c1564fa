"""`edgewright quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from accel.evaluate import EVALUATION_COLUMNS, evaluation_row
from edgewright.command_line import common_options, print_json, print_table, progress, share
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import BackendName
from hardware_profiles.catalog import load_profile
from quantize.auto.automatic import AUTO, AUTO_COLUMNS, AutoRow, auto_cells, check_alone, quantize_auto
from quantize.calibration.thresholds import Calibration
from quantize.int8.int8 import Int8Settings
from quantize.npu.functional import functional_row
from quantize.quantization import Quantized, QuantizeOptions, options_for, quantize_all
from quantize.scheme import Scheme


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    required=True,
    type=click.Choice([*(scheme.value for scheme in Scheme), AUTO]),
    help="The precision of the new variant; may be given several times. auto tries those that fit and keeps the best.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    help="Real samples (.npz) for calibration and measurement. mxint8 and int8-dynamic need none: they take the golden ones.",
)
@click.option("--max-drop", type=share, help="Keep no variant that loses more accuracy than this: 1% or 0.01.")
@click.option(
    "--calibration",
    default=Int8Settings().calibration.value,
    show_default=True,
    type=click.Choice([method.value for method in Calibration]),
    help="The method that chooses the range of values which int8 covers.",
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
    help="Make int8 and mixed with the integer types that are fastest on this hardware; may be given several times.",
)
@click.option("--equalize", is_flag=True, help="Equalize the channels of adjacent layers before rounding to int8.")
@common_options
def command(
    build: Path,
    schemes: tuple[str, ...],
    samples: Path | None,
    max_drop: float | None,
    calibration: str,
    backend: str,
    profiles: tuple[str, ...],
    equalize: bool,
    as_json: bool,
) -> None:
    """Add a variant of lower precision, with its measured accuracy.

    Prints accuracy, agreement with the source model, size and latency of the float variant and of each new one. For npu-int8 and
    npu-mxint8 it also prints the accuracy on the NPU's functional model, which has the same bits as a board.
    """
    opened = BuildDirectory.open(build)
    int8 = Int8Settings(calibration=Calibration(calibration), equalize=equalize)
    hardware = [load_profile(name) for name in profiles]
    if AUTO in schemes:
        check_alone(schemes, backend)
        common = QuantizeOptions(scheme=Scheme.INT8, samples=samples, max_drop=max_drop, int8=int8)
        _print_front(quantize_auto(opened, common, profiles=hardware, progress=progress), as_json=as_json)
        return
    requests = [
        options
        for scheme in schemes
        for options in options_for(
            QuantizeOptions(scheme=Scheme(scheme), samples=samples, backend=backend, max_drop=max_drop, int8=int8), hardware
        )
    ]
    _print(opened, quantize_all(opened, requests, progress=progress), as_json=as_json)


def _print_front(rows: list[AutoRow], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(AUTO_COLUMNS, list(auto_cells(rows)))


def _print(build: BuildDirectory, results: list[Quantized], *, as_json: bool) -> None:
    evaluations = [results[0].baseline, *(result.evaluation for result in results)]
    functional = [result.functional for result in results if result.functional is not None]
    if as_json:
        print_json([*evaluations, *functional])
        return
    sizes = {variant.config.variant: variant.config.size_bytes for variant in build.variants()}
    rows = [evaluation_row(one, sizes[one.variant]) for one in evaluations]
    print_table(EVALUATION_COLUMNS, [*rows, *(functional_row(one, sizes[one.variant]) for one in functional)])
