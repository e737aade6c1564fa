"""`edgewright npu`: compile a model for an NPU, estimate its cost, run it, and list its instructions.

MODEL is a quantized ONNX file (QDQ, as `edgewright quantize` writes it), which is compiled for `--profile`; a compiled program
(`npu.program`); or a build directory with a compiled NPU variant (program_source.py).
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from accel.npu.hardware.cli import bitstream
from accel.npu.hardware.implementation import status
from accel.npu.link.discovery import DEVICE_VARIABLE, resolve
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.machines.host import Session, run_in_turn
from accel.npu.machines.host_parts import onnx_steps
from accel.npu.machines.port import Hardware
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import Estimate, estimate, listing
from accel.npu.outputs import check_output
from accel.npu.profile import NpuProfile, find_profile, npu_profiles, with_host
from accel.npu.program import Description, NpuProgram
from accel.npu.program_source import DEFAULT_PROFILE, LoadedProgram, load_program, read_onnx
from edgewright.command_line import common_options, print_json, print_table, progress
from edgewright.contracts.files import write_atomically
from edgewright.contracts.samples import Tensors, read_npz, write_npz
from edgewright.errors import EdgewrightError, OperationError, SamplesError, UnreachableError

if TYPE_CHECKING:
    from accel.npu.machines.board import Board

MODEL = click.argument("model", type=click.Path(path_type=Path))
SIMULATED = "simulated"
PROFILE = click.option("--profile", "profile_name", default=DEFAULT_PROFILE, show_default=True, help="NPU (`npu profiles`).")
PROFILE_OF_MODEL = click.option(
    "--profile",
    "profile_name",
    show_default=f"the NPU of the build directory, else {DEFAULT_PROFILE}",
    help="NPU (`npu profiles`).",
)
HOST_SPEED = click.option(
    "--host-speed",
    type=click.FloatRange(min=0, min_open=True),
    show_default="that of the profile",
    help="Millions of int8 multiplications per second of the host; what it computes faster than the transfers stays there.",
)


@click.group()
def group() -> None:
    """Compile for, simulate and cost the FPGA NPU."""


group.add_command(bitstream)


@group.command()
@common_options
def profiles(as_json: bool) -> None:
    """List the NPUs that programs can be compiled for."""
    if as_json:
        print_json([{**_fields(p), "status": status(p), "hash": p.hash.hex()} for p in npu_profiles()])
        return
    rows = [
        (p.name, _array(p), p.activation_vectors, p.weight_rows, p.external_memory_mib or None, p.clock_mhz, p.part or None)
        for p in npu_profiles()
    ]
    print_table(("name", "array", "vectors", "weight rows", "DRAM MiB", "MHz", "part"), rows)
    click.echo("")
    for profile in npu_profiles():
        if status(profile) != SIMULATED:
            click.echo(f"{profile.name}: {status(profile)}")
    click.echo(f"all others: {SIMULATED}")


@group.command(name="compile")
@MODEL
@PROFILE
@HOST_SPEED
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where to write the program.")
@common_options
def compile_command(model: Path, profile_name: str, host_speed: float | None, output: Path, as_json: bool) -> None:
    """Compile a quantized ONNX model; show where each operator runs."""
    from accel.npu.compiler.partition import compile_partitioned

    check_output(output)
    profile = with_host(find_profile(profile_name), host_speed)
    compiled = compile_partitioned(read_onnx(model), profile)
    write_atomically(output, compiled.program.to_bytes())
    if as_json:
        print_json(compiled.coverage)
        return
    print_coverage(compiled.coverage)
    print_segments(estimate(compiled.program, profile))


@group.command(name="estimate")
@MODEL
@PROFILE_OF_MODEL
@common_options
def estimate_command(model: Path, profile_name: str | None, as_json: bool) -> None:
    """Show the cycles of every layer, from the cycle model."""
    loaded = load_program(model, profile_name)
    cost = estimate(loaded.program, loaded.profile)
    if as_json:
        print_json(cost)
        return
    _print_estimate(cost)


@group.command()
@MODEL
@PROFILE_OF_MODEL
@click.option("--samples", "samples_path", type=click.Path(path_type=Path), required=True, help="A .npz with the inputs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs as .npz.")
@click.option("--device", help="Run on a board too, and compare: its serial port, its USB id (0403:6015), or auto.")
@click.option("--baud", type=click.IntRange(min=1), default=3_000_000, show_default=True, help="Speed of the serial line.")
@click.option("--rtl", is_flag=True, help="Run the RTL (Verilator) and check it against the functional model and cycle model.")
@common_options
def run(
    model: Path,
    profile_name: str | None,
    samples_path: Path,
    output: Path | None,
    device: str | None,
    baud: int,
    rtl: bool,
    as_json: bool,
) -> None:
    """Run samples on the functional model, the RTL or a board."""
    if output is not None:
        check_output(output)
    loaded = load_program(model, profile_name)
    program, profile = loaded.program, loaded.profile
    tensors = _run_functional(loaded, read_npz(samples_path))
    inputs = {place.name: tensors[place.name] for place in program.description.inputs}
    outputs = {place.name: tensors[place.name] for place in program.description.outputs}
    checks: dict[str, dict[str, object]] = {}
    if rtl:
        from accel.npu.machines.rtl_simulator import RtlSimulator

        checks["rtl"] = _check_hardware(RtlSimulator(profile), program, inputs, outputs)
    if device is not None:
        checks["board"] = _run_on_board(open_board(profile, device, baud), program, inputs, outputs)
    if output is not None:
        write_npz(output, outputs)
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    if as_json:
        print_json({"outputs": shapes, **checks})
        return
    print_table(("output", "shape"), list(shapes.items()))
    for machine, results in checks.items():
        click.echo(f"{machine}: " + ", ".join(f"{name} {value}" for name, value in results.items()))


@group.command()
@PROFILE
@click.option("--link", type=click.Path(path_type=Path), help="Symbolic link to the device, for a fixed name.")
def simulate(profile_name: str, link: Path | None) -> None:
    """Run a simulated board on a pseudo-terminal until interrupted.

    Prints the device that a program for serial ports opens; further hints go to the error stream.
    """
    from accel.npu.machines.simulated_board import serve_board

    if link is not None:
        check_output(link)
    profile = find_profile(profile_name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the link is removed
    click.echo(f"building and starting {profile.name}; the first time takes a minute", err=True)

    def announce(device: str) -> None:
        click.echo(device)
        click.echo(
            f"{profile.name}: {profile.rows}x{profile.columns}, hash {profile.hash.hex()[:16]}, RTL in simulation, "
            f"far slower than {profile.clock_mhz:g} MHz\n"
            f"edgewright npu run MODEL --profile {profile.name} --samples X.npz --device {device}\n"
            f"{DEVICE_VARIABLE}={device} makes the backend npu use it; Ctrl-C ends it",
            err=True,
        )

    serve_board(profile, link, announce)


@group.command()
@MODEL
@PROFILE_OF_MODEL
def disasm(model: Path, profile_name: str | None) -> None:
    """List the instructions of a program."""
    loaded = load_program(model, profile_name)
    for line in listing(loaded.program, loaded.profile):
        click.echo(line)


def _array(profile: NpuProfile) -> str:
    """Return rows and columns, `paired` for paired multipliers, and a number format other than int8."""
    number_format = "" if profile.number_format == "int8" else profile.number_format
    return " ".join([f"{profile.rows}x{profile.columns}", *(["paired"] if profile.paired else []), number_format]).strip()


def _fields(profile: NpuProfile) -> dict[str, object]:
    return {name: getattr(profile, name) for name in profile.__slots__}


def print_coverage(coverage: Sequence[CoverageRow]) -> None:
    """Print a table of the operators and where they run; the segment is shown if there are several."""
    has_segments = max((row.segment or 0 for row in coverage), default=0) > 1

    def where(row: CoverageRow) -> str:
        return "host" if not row.on_npu else f"npu {row.segment}" if has_segments and row.segment else "npu"

    print_table(
        ("layer", "operator", "runs on", "reason"),
        [(row.layer, row.operator, where(row), row.reason or None) for row in coverage],
    )


def print_segments(cost: Estimate) -> None:
    """Print the transfers between host and NPU, for each segment of the network."""
    click.echo("")
    rows = [
        (f"npu {number}", part.macs, part.input_bytes, part.output_bytes, f"{part.crossing_ms:.2f}", f"{part.host_ms:.2f}")
        for number, part in enumerate(cost.segments, 1)
    ]
    print_table(("segment", "MACs", "bytes in", "bytes out", "transfer ms", "host instead ms"), rows)
    runs = f"{len(cost.segments)} runs of {cost.compute_ms:.3f} ms" if len(cost.segments) > 1 else f"{cost.compute_ms:.3f} ms"
    click.echo(
        f"one sample takes {cost.latency_ms:.2f} ms: {runs} on the NPU and {cost.crossing_ms:.2f} ms on the line "
        f"at {cost.link_baud} baud, without the operators of the host"
    )


def _run_functional(loaded: LoadedProgram, arrays: Tensors) -> Tensors:
    """Run the samples on the functional model and the parts of the host; return them with all tensors between host and NPU."""
    session = Session(FunctionalModel(loaded.profile), loaded.program)
    inputs = arrays if loaded.host_graphs else _inputs(arrays, loaded.program.description)
    inputs.pop("labels", None)
    return run_in_turn(session.steps, onnx_steps(loaded.host_graphs), inputs)


def _inputs(arrays: Tensors, description: Description) -> Tensors:
    """Return the arrays of the program's inputs by name; the single array of a single input may have any name."""
    arrays.pop("labels", None)
    computed = {place.name for place in description.outputs}
    names = [place.name for place in description.inputs if place.name not in computed]
    if len(arrays) == 1 and len(names) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise SamplesError(f"the samples must have {', '.join(missing)}; found: {', '.join(arrays) or 'no array'}")
    return {name: arrays[name] for name in names}


def _check_hardware(hardware: Hardware, program: NpuProgram, inputs: Tensors, outputs: Tensors) -> dict[str, object]:
    """Run the samples on hardware, one at a time.

    Raises:
        OperationError: outputs differ from the functional model's, or cycles from the cycle model's.
    """
    session, count = Session(hardware, program), len(next(iter(inputs.values())))
    images = [
        session.run({name: array[image : image + 1] for name, array in inputs.items()})
        for image in progress(range(count), f"{count} samples")
    ]
    answers = {name: np.concatenate([image[name] for image in images]) for name in images[0]}
    expected = estimate(program, hardware.profile).counters
    if any(not np.array_equal(answers[name], outputs[name]) for name in outputs) or hardware.counters != expected:
        raise OperationError("hardware and models must agree bit for bit and cycle for cycle, but they differ: this is a bug")
    return {"outputs": "equal to the functional model", "cycles": expected.cycles}


def open_board(profile: NpuProfile, selection: str, baud: int) -> Board:
    """Open the first board of `profile` at the ports that `selection` names (link/discovery.py).

    Raises:
        UnreachableError: none of several ports has such a board; the message gives the reason for each port.
        EdgewrightError: the only port does not have such a board.
    """
    from accel.npu.machines.board import Board

    ports = resolve(selection)
    if len(ports) == 1:
        return Board(profile, ports[0], baud)
    reasons = []
    for port in ports:
        try:
            return Board(profile, port, baud)
        except EdgewrightError as error:
            reasons.append(str(error))
    raise UnreachableError(
        f"no serial port ({selection}) has a board {profile.name}: {'; '.join(reasons) or 'there is no such port'}; "
        "plug it in, or specify its port with --device"
    )


def _run_on_board(board: Board, program: NpuProgram, inputs: Tensors, outputs: Tensors) -> dict[str, object]:
    """Run the samples and measure upload time, compute time, and the remaining time of a sample (serial line and waiting)."""
    try:
        started = time.monotonic()
        _upload(board, program)
        uploaded = time.monotonic()
        results = _check_hardware(board, program, inputs, outputs)
        count = len(next(iter(inputs.values())))
        total_ms = 1e3 * (time.monotonic() - uploaded) / count
        compute_ms = estimate(program, board.profile).compute_ms
        return {
            **results,
            "upload_s": round(uploaded - started, 3),
            "compute_ms": round(compute_ms, 3),
            "wire_and_wait_ms": round(max(0.0, total_ms - compute_ms), 3),
            "repeated_frames": board.link.repeated,
        }
    finally:
        board.close()


def _upload(board: Board, program: NpuProgram) -> None:
    """Upload the program, with a progress bar on a terminal."""
    with click.progressbar(length=1, label="upload", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def watch(uploaded: int, total: int) -> None:
            bar.length = max(1, total)
            bar.update(uploaded - bar.pos)

        board.load(program, watch)


def _print_estimate(cost: Estimate) -> None:
    rows = [
        (layer.name, layer.operator, layer.instructions, layer.cycles, layer.macs, f"{layer.mac_use:.1%}", layer.moved_bytes)
        for layer in cost.layers
    ]
    print_table(("layer", "operator", "instructions", "cycles", "MACs", "MAC utilization", "bytes moved"), rows)
    counters = cost.counters
    click.echo(
        f"{cost.profile}: {counters.cycles} cycles, {cost.compute_ms:.3f} ms at {cost.clock_mhz:g} MHz ({cost.basis}); "
        f"MAC utilization {cost.mac_use:.1%}, array utilization {cost.array_use:.1%}; stalls: loader {counters.loader_stalls}, "
        f"array {counters.array_stalls}, vector {counters.vector_stalls}, sync {counters.sync_stalls}, "
        f"transfer {counters.transfer_stalls}; {cost.input_bytes} bytes in, {cost.output_bytes} out, "
        f"program {cost.program_bytes} bytes; {cost.moved_bytes} bytes moved to and from the external memory "
        f"in {counters.transfer_cycles} cycles"
    )
    print_segments(cost)
