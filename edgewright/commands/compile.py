"""`edgewright compile`: compile a quantized variant for an FPGA board."""

from __future__ import annotations

from pathlib import Path

import click

from accel.npu.cli import HOST_SPEED, print_coverage, print_segments
from accel.npu.profile import find_profile, with_host
from edgewright.command_line import common_options, print_json
from edgewright.compiling import CompileReport, compile_variant
from edgewright.contracts.build_directory import BuildDirectory


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--profile", "profile_name", required=True, help="A shipped NPU by name (npu profiles), or a TOML file.")
@click.option("--variant", "source", help="The quantized variant to compile; default: the one in the NPU's number format.")
@HOST_SPEED
@click.option("--samples", type=click.Path(path_type=Path), help="Measure accuracy on these samples (.npz).")
@common_options
def command(
    build: Path, profile_name: str, source: str | None, host_speed: float | None, samples: Path | None, as_json: bool
) -> None:
    """Compile a quantized variant for an NPU.

    Adds the variant npu-PROFILE to BUILD: a program for the NPU, and the operators that stay on the processor. Shows where every
    operator runs, why the others do not run on the NPU, and the time of the transfers between both.
    """
    opened = BuildDirectory.open(build)
    report = compile_variant(opened, with_host(find_profile(profile_name), host_speed), source=source, samples=samples)
    if as_json:
        print_json(report)
        return
    print_coverage(report.coverage)
    print_segments(report.estimate)
    click.echo(_summary(report))


def _summary(report: CompileReport) -> str:
    on_npu, cost = sum(row.on_npu for row in report.coverage), report.estimate
    return (
        f"{report.variant}: {on_npu} of {len(report.coverage)} operators of {report.source} on the NPU, "
        f"{cost.counters.cycles} cycles, {cost.compute_ms:.3f} ms at {cost.clock_mhz:g} MHz, "
        f"MAC utilization {cost.mac_use:.1%} ({cost.basis})"
    )
