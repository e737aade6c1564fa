"""`edgewright npu`: what it prints for people and programs, and how it refuses."""

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
from accel.npu.program import read_program
from edgewright.cli import main
from edgewright.errors import BadInputError
from tests.support.npu_networks import INPUT, Network, quantize


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


def test_estimate_prints_a_table_and_one_closing_line(model: Path) -> None:
    lines = edgewright("estimate", model, "--profile", "npu-sim-4").stdout.splitlines()
    assert lines[0].split() == ["layer", "operator", "instructions", "cycles", "MACs", "MAC", "use", "bytes", "moved"]
    assert len(lines) == 5
    assert lines[-1].startswith("npu-sim-4: ")
    assert "ms at 60 MHz (cycle model, equal to the RTL's counters; clock from the profile)" in lines[-1]


def test_compile_writes_a_program_and_lists_where_every_operator_runs(model: Path, tmp_path: Path) -> None:
    written = tmp_path / "npu.program"
    result = edgewright("compile", model, "--profile", "npu-sim-4", "-o", written, "--json")
    assert result.exit_code == 0, result.output
    rows = [(row["operator"], row["on_npu"]) for row in json.loads(result.stdout)]
    assert rows == [("Conv", True), ("MaxPool", True), ("Conv", True), ("Softmax", False)]
    assert read_program(written.read_bytes()).description.profile_name == "npu-sim-4"


def test_disasm_golden(model: Path, golden: Callable[[str, str], None]) -> None:
    golden("npu_disasm.txt", edgewright("disasm", model, "--profile", "npu-sim-4").stdout)


def test_run_writes_what_the_rtl_gives_too(model: Path, tmp_path: Path, require: Callable[[str], Path]) -> None:
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


def test_profiles_fit_a_terminal_with_what_place_and_route_said_below() -> None:
    table, _, told = edgewright("profiles").stdout.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert "npu-sim-8-mx        8x8 mxint8" in table
    assert "brainwave-class: extrapolated: cycle model only" in told
    assert "\ncolorlight-i9: simulated; placed and routed: " in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no such file; it must be a quantized ONNX model or a compiled NPU program", id="absent"),
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


def test_the_cost_on_a_machine_that_nobody_simulated_is_called_extrapolated(model: Path) -> None:
    told = json.loads(edgewright("estimate", model, "--profile", "brainwave-class", "--json").stdout)
    assert told["basis"] == "extrapolated: the cycle model equals the RTL's counters up to 32 rows; nothing is built"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        pytest.param(".", "must be a file to write, but it is a directory; name a file in it", id="directory"),
        pytest.param("file/program", "is no directory; choose another place", id="below a file"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["compile", "MODEL"], ["run", "MODEL", "--samples", "absent.npz"]],
    ids=["compile", "run"],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    model: Path, tmp_path: Path, command: list[str], output: str, told: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    words = [str(model) if word == "MODEL" else word for word in command]
    result = CliRunner().invoke(main, ["npu", *words, "--profile", "npu-sim-4", "-o", str(tmp_path / output)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgewright: {tmp_path}")
    assert result.stderr.endswith(f"{told}\n")


def test_a_place_that_this_user_may_not_write_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write everywhere
    with pytest.raises(BadInputError, match=rf"^{tmp_path}/a/b cannot be written: this user may not write to {tmp_path}; choose"):
        check_output(tmp_path / "a" / "b")


def test_a_build_directory_in_place_of_a_model_is_told_what_to_take_of_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["npu", "estimate", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {tmp_path} is a directory, but a model is one file: of a build directory take variants/NAME/npu.program or "
        "variants/NAME/graph.onnx\n"
    )
