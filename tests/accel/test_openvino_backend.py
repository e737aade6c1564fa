"""The openvino backends: same outputs, any batch size, float32 precision, no telemetry."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from accel.backends.choose import explain, load_session
from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.backends.openvino_cpu import OpenVino, OpenVinoBf16
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantDirectory
from edgewright.errors import BadInputError, ModelError, OperationError, SamplesError
from hardware_profiles.catalog import load_profile
from hardware_profiles.match import match
from tests.support.tiny_variants import expected_scores, make_config, make_variant, tiny_samples

WIDE = Tolerance(max_relative_difference=0.2, min_agreement=0.9)


@pytest.fixture(autouse=True)
def openvino(require_package: Callable[[str], None]) -> None:
    require_package("openvino")


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def test_a_batch_of_any_size_has_the_outputs_of_the_network(variant: VariantDirectory) -> None:
    session = OpenVino().load(variant, threads=1)
    assert list(session.run({"x": tiny_samples(1)})) == ["scores"]
    np.testing.assert_allclose(session.run({"x": tiny_samples(7)})["scores"], expected_scores(tiny_samples(7)), rtol=1e-5)


@pytest.mark.parametrize("batch", [pytest.param(1, id="one by one"), pytest.param(4, id="in fours with a rest")])
def test_a_graph_with_a_fixed_batch_has_the_same_outputs(tmp_path: Path, batch: int) -> None:
    session = OpenVino().load(make_variant(tmp_path / "fixed", batch=batch), threads=1)
    np.testing.assert_allclose(session.run({"x": tiny_samples(7)})["scores"], expected_scores(tiny_samples(7)), rtol=1e-5)


def test_floats_are_computed_in_float32_by_default(variant: VariantDirectory) -> None:
    session = OpenVino().load(variant, threads=1)
    reference = OnnxRuntime().load(variant, threads=1)
    x = tiny_samples(64)
    np.testing.assert_allclose(session.run({"x": x})["scores"], reference.run({"x": x})["scores"], rtol=1e-5, atol=1e-7)


def test_outputs_stay_unchanged_when_the_session_runs_again(variant: VariantDirectory) -> None:
    session = OpenVino().load(variant, threads=1)
    first = session.run({"x": tiny_samples(3)})["scores"]
    kept = first.copy()
    session.run({"x": -tiny_samples(3)})
    np.testing.assert_array_equal(first, kept)


def test_concurrent_threads_get_their_own_outputs(variant: VariantDirectory) -> None:
    session = OpenVino().load(variant, threads=1)
    inputs = [tiny_samples(4) * scale for scale in range(1, 9)]
    found: dict[int, np.typing.NDArray[np.float32]] = {}
    together = threading.Barrier(len(inputs))

    def score(place: int) -> None:
        together.wait(timeout=30)
        for _ in range(20):
            found[place] = session.run({"x": inputs[place]})["scores"]

    threads = [threading.Thread(target=score, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for place, x in enumerate(inputs):
        np.testing.assert_allclose(found[place], expected_scores(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({}, r"the model's input x float32\[N, 6\] is missing; found arrays: none", id="missing"),
        pytest.param({"y": tiny_samples(1)}, r"unknown input y: the model's inputs are x float32\[N, 6\]", id="unknown"),
        pytest.param({"x": np.zeros((2, 5), np.float32)}, r"must have shape \[N, 6\], but the samples have", id="shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(variant: VariantDirectory, inputs: Tensors, message: str) -> None:
    with pytest.raises(SamplesError, match=message):
        OpenVino().load(variant, threads=1).run(inputs)


def test_a_closed_session_cannot_run(variant: VariantDirectory) -> None:
    session = OpenVino().load(variant, threads=1)
    session.close()
    with pytest.raises(OperationError, match=r"graph\.onnx was closed: load it again to run it$"):
        session.run({"x": tiny_samples(1)})


def test_a_session_describes_its_runtime(variant: VariantDirectory) -> None:
    said = OpenVino().load(variant, threads=2).describe()
    assert (said["backend"], said["floats"], said["threads"]) == ("openvino", "f32", "2")
    assert said["version"]


def test_a_file_that_is_not_a_graph_is_one_clear_line(variant: VariantDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    variant.file(LayerKind.GRAPH).write_bytes(b"no graph in here")
    with pytest.raises(ModelError, match=r"^\S+graph\.onnx is not an ONNX graph that openvino can load: Model can't be parsed$"):
        OpenVino().load(variant, threads=1)
    assert capfd.readouterr().err == ""


def test_missing_weights_are_an_error(variant: VariantDirectory) -> None:
    variant.file(LayerKind.HEAD_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"graph\.onnx is not an ONNX graph that openvino can load: .*head\.weights"):
        OpenVino().load(variant, threads=1)


def test_an_operator_without_a_kernel_is_named(variant: VariantDirectory) -> None:
    graph = onnx.load(variant.file(LayerKind.GRAPH), load_external_data=False)
    graph.graph.node[0].CopyFrom(helper.make_node("FancyAct", ["x", "w1"], graph.graph.node[0].output, domain="acme"))
    graph.opset_import.append(helper.make_opsetid("acme", 1))
    variant.file(LayerKind.GRAPH).write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="FancyAct"):
        OpenVino().load(variant, threads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"outputs": (TensorSpec(name="labels", dtype="int64", shape=("N",)),)},
            "the graph must have the output labels int64 of its config, but has scores float32",
            id="another output",
        ),
        pytest.param(
            {"inputs": (TensorSpec(name="x", dtype="float64", shape=("N", 6)),)},
            "the graph must have the input x float64 of its config, but has x float32",
            id="another type",
        ),
        pytest.param({"outputs": ()}, "the graph must have the 0 outputs of its config, but has 1", id="one too many"),
    ],
)
def test_a_graph_that_differs_from_its_config_is_refused(
    variant: VariantDirectory, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        OpenVino().load(VariantDirectory.write(variant.path, make_config(**changes)), threads=1)


def test_zero_threads_are_refused(variant: VariantDirectory) -> None:
    with pytest.raises(BadInputError, match=r"^threads must be 1 or more, not 0$"):
        OpenVino().load(variant, threads=0)


@pytest.mark.parametrize(
    ("backend", "precision", "runs"),
    [
        pytest.param("onnxruntime", Precision.FP32, True, id="a graph made for onnxruntime"),
        pytest.param("openvino", Precision.INT8, True, id="its own int8"),
        pytest.param("npu", Precision.NPU_INT8, False, id="a program for a board"),
    ],
)
def test_graphs_for_several_backends_run(backend: str, precision: Precision, runs: bool) -> None:
    config = make_config(backend=backend, precision=precision)
    assert OpenVino().runs(config) is runs
    assert OnnxRuntime().runs(config) is runs


@pytest.mark.parametrize(
    ("precision", "tolerance", "runs"),
    [
        pytest.param(Precision.FP32, WIDE, True, id="a wide tolerance"),
        pytest.param(Precision.FP32, Tolerance(max_relative_difference=0.01, min_agreement=0.9), False, id="too narrow"),
        pytest.param(Precision.FP32, Tolerance(max_relative_difference=0.2, min_agreement=1.0), False, id="every label counts"),
        pytest.param(Precision.INT8, WIDE, False, id="an int8 variant"),
    ],
)
def test_bfloat16_is_tried_only_where_the_tolerance_allows_it(precision: Precision, tolerance: Tolerance, runs: bool) -> None:
    assert OpenVinoBf16().runs(make_config(precision=precision, tolerance=tolerance)) is runs


def test_bfloat16_is_less_exact_and_described(tmp_path: Path) -> None:
    if reason := OpenVinoBf16().unavailable():
        pytest.skip(reason)  # a matter of the processor, which no installation can mend
    session = OpenVinoBf16().load(make_variant(tmp_path / "fp32", tolerance=WIDE), threads=1)
    found = session.run({"x": tiny_samples(64)})["scores"]
    error = np.abs(found - expected_scores(tiny_samples(64))).max()
    assert 1e-5 < error < 0.1
    assert session.describe()["floats"] == "bf16"


def test_auto_really_measures_both_runtimes(variant: VariantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = explain(variant, threads=1)
    assert set(found.median_ms) == {"onnxruntime", "openvino"}
    assert found.chosen == min(found.median_ms, key=lambda name: found.median_ms[name])
    assert "openvino-bf16" in found.excluded
    assert load_session(variant, threads=1).describe()["backend"] == found.chosen


def test_an_x86_profile_takes_a_graph_tuned_for_openvino_without_another_one() -> None:
    config = make_config("int8-openvino", backend="openvino", precision=Precision.INT8)
    assert match(load_profile("x86-64-vnni"), [config]).chosen == "int8-openvino"


def test_an_x86_profile_prefers_the_onnxruntime_variant_of_one_precision() -> None:
    variants = [make_config("a-openvino", backend="openvino"), make_config("b-onnxruntime")]
    assert match(load_profile("x86-64-vnni"), variants).chosen == "b-onnxruntime"


def test_loading_and_running_imports_no_telemetry_and_opens_no_connection(variant: VariantDirectory) -> None:
    script = f"""
import sys
def deny(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(deny)
from pathlib import Path
from typing import Any
import numpy as np
from accel.backends.openvino_cpu import OpenVino
from edgewright.contracts.variant import VariantDirectory
session = OpenVino().load(VariantDirectory.open(Path({str(variant.path)!r})), threads=1)
session.run({{"x": np.zeros((1, 6), np.float32)}})
print("openvino_telemetry" in sys.modules, "openvino" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (finished.returncode, finished.stdout) == (0, "False True\n"), finished.stderr


def test_without_the_package_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert OpenVino().unavailable() == "the package openvino is not installed: pip install 'edgewright[openvino]'"
