"""`edgewright npu`: output for people and programs, and refusals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from accel.npu.outputs import check_output
from accel.npu.profile import find_profile
from accel.npu.program import read_program
from benchmarks.networks.npu_networks import INPUT, Network, quantize
from edgewright.cli import main
from edgewright.compiling import compile_variant
from edgewright.errors import BadInputError
from tests.support.npu_builds import make_npu_build

PROGRAM = "variants/npu-sim-4/npu.program"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized network of two convolutions, a pool and a Softmax that stays on the host."""
    network = Network(3, 6, 6)
    x = network.add("MaxPool", network.conv(INPUT, 3, 4), kernel_shape=[2, 2], strides=[2, 2])
    plain = network.model(network.add("Softmax", network.conv(x, 4, 5, (1, 1))))
    path = tmp_path_factory.mktemp("npu") / "model.onnx"
    onnx.save(quantize(plain, network.images(4)), path)
    return path


def edgewright(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["npu", *map(str, arguments)])


def test_estimate_adds_the_layers_up_to_the_whole_run(model: Path) -> None:
    result = edgewright("estimate", model, "--profile", "npu-sim-4", "--json")
    assert result.exit_code == 0, result.output
    cost = json.loads(result.stdout)
    assert [layer["operator"] for layer in cost["layers"]] == ["Conv", "MaxPool", "Conv"]
    assert sum(layer["cycles"] for layer in cost["layers"]) == cost["counters"]["cycles"]
    assert cost["compute_ms"] == pytest.approx(cost["counters"]["cycles"] / 60e3)


def test_estimate_prints_the_layers_and_the_transfers_with_a_closing_line_each(model: Path) -> None:
    lines = edgewright("estimate", model, "--profile", "npu-sim-4").stdout.splitlines()
    assert lines[0].split() == ["layer", "operator", "instructions", "cycles", "MACs", "MAC", "utilization", "bytes", "moved"]
    assert len(lines) == 9
    assert lines[4].startswith("npu-sim-4: ")
    assert "ms at 60 MHz (cycle model, equal to the RTL's counters; clock from the profile)" in lines[4]
    assert lines[6].split()[:3] == ["segment", "MACs", "bytes"]
    assert lines[7].split()[:1] == ["npu"]
    assert lines[8].startswith("one sample takes ")


def test_compile_writes_a_program_and_lists_where_every_operator_runs(model: Path, tmp_path: Path) -> None:
    written = tmp_path / "npu.program"
    result = edgewright("compile", model, "--profile", "npu-sim-4", "-o", written, "--json")
    assert result.exit_code == 0, result.output
    rows = [(row["operator"], row["on_npu"]) for row in json.loads(result.stdout)]
    assert rows == [("Conv", True), ("MaxPool", True), ("Conv", True), ("Softmax", False)]
    assert read_program(written.read_bytes()).description.profile_name == "npu-sim-4"


def test_disasm_golden(model: Path, golden: Callable[[str, str], None]) -> None:
    golden("npu_disasm.txt", edgewright("disasm", model, "--profile", "npu-sim-4").stdout)


def test_run_writes_outputs_that_the_rtl_equals(model: Path, tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    samples, outputs = tmp_path / "samples.npz", tmp_path / "outputs.npz"
    np.savez(samples, x=np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32))
    result = edgewright("run", model, "--profile", "npu-sim-4", "--samples", samples, "-o", outputs, "--rtl", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rtl"]["outputs"] == "equal to the functional model"
    with np.load(outputs) as archive:
        assert [archive[name].shape for name in archive.files] == [(2, 5, 2, 2)]


def test_profiles_lists_every_npu_with_its_hash() -> None:
    listed = json.loads(edgewright("profiles", "--json").stdout)
    assert {"npu-sim-4", "colorlight-i9", "ulx3s-85f"} <= {profile["name"] for profile in listed}
    assert all(len(profile["hash"]) == 64 for profile in listed)


def test_profiles_fit_a_terminal_with_the_figures_of_place_and_route_below() -> None:
    table, _, figures = edgewright("profiles").stdout.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert "npu-sim-8-mx        8x8 mxint8" in table
    assert "brainwave-class: extrapolated: cycle model only" in figures
    assert "\ncolorlight-i9: simulated; placed and routed: " in figures


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no such file; it must be a quantized ONNX model, an NPU program or a build directory", id="absent"),
        pytest.param(b"hello", "must be an ONNX model or an NPU program, but it cannot be read as either", id="no model"),
        pytest.param(
            b"EWNP" + bytes(10), "must start with 48 bytes of NPU program header; these 14 bytes do not", id="cut program"
        ),
    ],
)
def test_a_file_that_is_neither_model_nor_program_is_one_line_and_exit_2(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    if content is not None:
        path.write_bytes(content)
    result = edgewright("estimate", path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"edgewright: {path}{':' if content is None else ''} {message}"]


def test_a_program_for_another_npu_is_refused(model: Path, tmp_path: Path) -> None:
    written = tmp_path / "npu.program"
    edgewright("compile", model, "--profile", "npu-sim-4", "-o", written)
    result = edgewright("estimate", written, "--profile", "npu-sim-8")
    assert result.exit_code == 2
    assert "the program was compiled for NPU npu-sim-4" in result.stderr


def test_the_cost_on_an_npu_that_was_never_simulated_is_called_extrapolated(model: Path) -> None:
    cost = json.loads(edgewright("estimate", model, "--profile", "brainwave-class", "--json").stdout)
    assert cost["basis"] == "extrapolated: the cycle model equals the RTL's counters up to 32 rows; nothing is built"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(".", "must be a file to write, but it is a directory; specify a file in it", id="directory"),
        pytest.param("file/program", "is not a directory; choose another path", id="below a file"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["compile", "MODEL"], ["run", "MODEL", "--samples", "absent.npz"]],
    ids=["compile", "run"],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    model: Path, tmp_path: Path, command: list[str], output: str, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    words = [str(model) if word == "MODEL" else word for word in command]
    result = CliRunner().invoke(main, ["npu", *words, "--profile", "npu-sim-4", "-o", str(tmp_path / output)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgewright: {tmp_path}")
    assert result.stderr.endswith(f"{message}\n")


def test_a_path_that_this_user_may_not_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, which may write everywhere
    with pytest.raises(
        BadInputError, match=rf"^{tmp_path}/a/b must be writable, but this user may not write to {tmp_path}; choose"
    ):
        check_output(tmp_path / "a" / "b")


@pytest.fixture(scope="module")
def compiled_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build directory with one compiled variant, for npu-sim-4."""
    build, _ = make_npu_build(tmp_path_factory.mktemp("build") / "build")
    compile_variant(build, find_profile("npu-sim-4"))
    return build.path


def test_estimate_takes_the_compiled_variant_of_a_build_directory(compiled_build: Path) -> None:
    cost = json.loads(edgewright("estimate", compiled_build, "--json").stdout)
    assert cost == json.loads(edgewright("estimate", compiled_build / PROGRAM, "--profile", "npu-sim-4", "--json").stdout)
    assert cost["profile"] == "npu-sim-4"


def test_run_takes_the_compiled_variant_of_a_build_directory(compiled_build: Path) -> None:
    samples = compiled_build / "graph" / "golden_inputs.npz"
    from_build = edgewright("run", compiled_build, "--samples", samples, "--json")
    from_program = edgewright("run", compiled_build / PROGRAM, "--profile", "npu-sim-4", "--samples", samples, "--json")
    assert from_build.exit_code == 0, from_build.output
    assert from_build.stdout == from_program.stdout


def test_disasm_takes_the_compiled_variant_of_a_build_directory(compiled_build: Path) -> None:
    listing = edgewright("disasm", compiled_build).stdout
    assert listing
    assert listing == edgewright("disasm", compiled_build / PROGRAM, "--profile", "npu-sim-4").stdout


def test_a_build_directory_without_a_program_for_the_profile_names_those_it_has(compiled_build: Path) -> None:
    result = edgewright("estimate", compiled_build, "--profile", "npu-sim-8")
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {compiled_build} has no program for the NPU npu-sim-8, only for npu-sim-4; "
        f"run: edgewright compile {compiled_build} --profile npu-sim-8\n"
    )


def test_a_build_directory_with_several_programs_asks_for_the_profile(tmp_path: Path) -> None:
    build, _ = make_npu_build(tmp_path / "build")
    for name in ("npu-sim-4", "npu-sim-8"):
        compile_variant(build, find_profile(name))
    result = edgewright("estimate", build.path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {build.path} has programs for several NPUs; choose one with --profile: npu-sim-4, npu-sim-8\n"
    )
    chosen = edgewright("estimate", build.path, "--profile", "npu-sim-8", "--json")
    assert json.loads(chosen.stdout)["profile"] == "npu-sim-8"


def test_a_build_directory_without_a_compiled_variant_advises_to_compile(tmp_path: Path) -> None:
    build, _ = make_npu_build(tmp_path / "build")
    result = edgewright("run", build.path, "--samples", build.graph / "golden_inputs.npz")
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {build.path} must hold a variant compiled for an NPU, but it has none; "
        f"run: edgewright compile {build.path} --profile ulx3s-85f\n"
    )


def test_a_directory_that_is_not_a_build_directory_is_refused(tmp_path: Path) -> None:
    result = edgewright("estimate", tmp_path)
    assert result.exit_code == 2
    assert "build.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1
