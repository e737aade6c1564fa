"""The backend `npu` without a board: the functional model and the head have the outputs of the quantized graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from accel.backends.choose import explain, find_fastest, load_session
from accel.backends.npu_board import Npu, NpuOnBoard
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.profile import find_profile
from benchmarks.networks.npu_networks import INPUT, Float, reference
from edgewright.compiling import compile_variant
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ModelError, OperationError, SamplesError
from tests.support.npu_builds import make_npu_build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildDirectory, Float]:
    build, images = make_npu_build(tmp_path_factory.mktemp("backend") / "build", count=200)
    compile_variant(build, find_profile("npu-sim-4"))
    return build, images


@pytest.fixture
def variant(made: tuple[BuildDirectory, Float], monkeypatch: pytest.MonkeyPatch) -> VariantDirectory:
    monkeypatch.setenv("EDGEWRIGHT_NPU_DEVICE", "none")
    return made[0].variant("npu-sim-4")


def test_its_outputs_equal_those_of_the_quantized_graph_in_onnxruntime(
    made: tuple[BuildDirectory, Float], variant: VariantDirectory
) -> None:
    session = load_session(variant, backend="npu")
    (ours,) = session.run({INPUT: made[1]}).values()
    session.close()
    quantized = onnx.load(made[0].variant("npu-int8").file(LayerKind.GRAPH))
    (theirs,) = reference(quantized, made[1], [output.name for output in quantized.graph.output])
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.99
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_the_description_names_the_functional_model_without_a_board(variant: VariantDirectory) -> None:
    session = load_session(variant, backend="npu")
    described = session.describe()
    session.close()
    assert described["backend"] == "npu"
    assert described["featurizer"] == "functional model of npu-sim-4 on the processor: no serial port to probe"
    assert described["head"].startswith("onnxruntime 1.")


def test_auto_takes_it_for_a_compiled_variant_without_a_benchmark(variant: VariantDirectory) -> None:
    assert explain(variant).chosen == "npu"


def test_a_benchmark_on_the_board_refuses_the_functional_model(
    variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel.npu.machines.failover.MORE_PROBES_S", 0.1)
    with pytest.raises(OperationError, match="a benchmark must have a free board, but there is only the functional model"):
        NpuOnBoard().load(variant, threads=1)


def test_a_benchmark_on_the_board_takes_the_boards_time(
    variant: VariantDirectory, require: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("verilator")
    with simulated_board(find_profile("npu-sim-4")) as device:
        monkeypatch.setenv("EDGEWRIGHT_NPU_DEVICE", device)
        session = NpuOnBoard().load(variant, threads=1)
        described = session.describe()["featurizer"]
        session.close()
        simulated_ms = find_fastest([variant], threads=1, backends=[NpuOnBoard()], ignore_cache=True).best_ms["npu-sim-4"]
    monkeypatch.setenv("EDGEWRIGHT_NPU_DEVICE", "none")
    model_ms = find_fastest([variant], threads=1, backends=[Npu()], ignore_cache=True).best_ms["npu-sim-4"]
    assert described == f"board npu-sim-4 at {device}"
    assert simulated_ms > model_ms, "the simulated board computes each cycle, so it is slower than the functional model"


def test_an_input_that_does_not_fit_has_the_common_message(variant: VariantDirectory) -> None:
    session = load_session(variant, backend="npu")
    with pytest.raises(SamplesError, match=r"input image must have shape \[N, 3, 8, 8\], but the samples have shape"):
        session.run({INPUT: np.zeros((1, 3, 9, 9), np.float32)})
    session.close()


def broken(variant: VariantDirectory, folder: Path) -> VariantDirectory:
    """Return a copy whose files may be changed."""
    for kind in variant.layers():
        (folder / kind.file_name).write_bytes(variant.file(kind).read_bytes())
    return VariantDirectory.write(folder, variant.config)


def test_a_truncated_program_is_refused(variant: VariantDirectory, tmp_path: Path) -> None:
    spoilt = broken(variant, tmp_path)
    program = spoilt.file(LayerKind.NPU_PROGRAM)
    program.write_bytes(program.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"npu\.program must have \d+ bytes, but it has \d+: it is truncated or damaged"):
        load_session(spoilt, backend="npu")


def test_a_variant_without_its_program_or_its_record_is_refused(variant: VariantDirectory, tmp_path: Path) -> None:
    spoilt = broken(variant, tmp_path)
    spoilt.file(LayerKind.NPU_PROGRAM).unlink()
    with pytest.raises(ModelError, match=r"a variant for an NPU must hold npu\.program, but it does not"):
        load_session(spoilt, backend="npu")
    bare = VariantDirectory.write(broken(variant, tmp_path).path, replace(variant.config, properties={}))
    with pytest.raises(ModelError, match=r"must have the property npu\.record; compile it again"):
        load_session(bare, backend="npu")


def test_a_program_without_its_head_is_refused(variant: VariantDirectory, tmp_path: Path) -> None:
    spoilt = broken(variant, tmp_path)
    spoilt.file(LayerKind.HEAD_GRAPH).unlink()
    with pytest.raises(
        ModelError, match=r"program and head must fit together, but neither computes softmax_\d+; compile it again"
    ):
        load_session(spoilt, backend="npu")


def test_it_runs_without_the_model_tools(variant: VariantDirectory) -> None:
    code = (
        "import sys, json; from pathlib import Path; from accel.backends.choose import load_session;"
        "from edgewright.contracts.variant import VariantDirectory;"
        f"load_session(VariantDirectory.open(Path({str(variant.path)!r}))).close(); print(json.dumps(sorted(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"onnx", "onnx_ir", "tensorflow"} & set(json.loads(finished.stdout))
