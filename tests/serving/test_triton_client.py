"""NVIDIA's client of the Open Inference Protocol scores, reads descriptions and gets errors, over HTTP and over gRPC."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright import __version__
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.grpc.server import GrpcAddress, GrpcServer
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import serving
from tests.support.tiny_variants import expected_scores

CALLS = Path(__file__).parents[1] / "support" / "triton_calls.py"
LABELS = ("cat", "dog", "eel")
Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(variant: VariantDirectory, clients_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Return what the client got, by transport."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    write_new_keys(keys)
    key = json.loads(keys.read_text())["primary"]
    found = {}
    for transport in ("http", "grpc"):
        session = OnnxRuntime().load(variant, threads=1)
        app = ScoringApp(session, variant.config, model="pets", version=3, keys=KeyFile(keys))
        companion = GrpcServer(app, GrpcAddress(host="127.0.0.1", port=0))
        with serving(app, companion) as client:
            port = client.port if transport == "http" else companion.port
            command = [str(clients_python), str(CALLS), transport, f"127.0.0.1:{port}", key]
            output = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
        found[transport] = json.loads(output)
    return found


@pytest.fixture(params=["http", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def got(results: dict[str, Results], transport: str) -> Results:
    return results[transport]


def scores(count: int = 2) -> np.ndarray[Any, Any]:
    x = (np.add.outer(7 * np.arange(count), 3 * np.arange(6)) % 5 - 2).astype(np.float32)
    return expected_scores(x)


def top(count: int) -> list[list[str]]:
    """Return the classes as Triton writes them, computed without the server."""
    rows = [sorted(enumerate(row), key=lambda pair: -pair[1])[:count] for row in scores().astype(np.float32)]
    return [[f"{float(score):.6f}:{index}:{LABELS[index]}" for index, score in row] for row in rows]


def as_numbers(value: Any) -> Any:
    """Return a document with numbers in place of the texts that protobuf's JSON has for 64-bit integers."""
    if isinstance(value, dict):
        return {name: as_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_numbers(each) for each in value]
    return int(value) if isinstance(value, str) and value.lstrip("-").isdecimal() else value


def test_the_server_and_its_model_are_ready(got: Results) -> None:
    names = ("server_live", "server_ready", "model_ready", "version_ready")
    assert [got[name] for name in names] == [True] * 4


def test_another_model_is_not_ready(results: dict[str, Results]) -> None:
    assert results["http"]["other_model_ready"] is False
    assert results["grpc"]["other_model_ready"]["status"] == "StatusCode.NOT_FOUND"


def test_the_server_describes_itself(got: Results) -> None:
    assert (got["server"]["name"], got["server"]["version"]) == ("edgewright", __version__)
    assert "classification" in got["server"]["extensions"]


def test_the_model_describes_its_tensors(got: Results) -> None:
    model = as_numbers(got["model"])
    assert (model["name"], model["versions"]) == ("pets", [3])
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("name", ["other_model", "other_version"])
def test_another_model_or_version_is_named_in_the_error(got: Results, name: str) -> None:
    assert got[name]["status"] in {"404", "StatusCode.NOT_FOUND"}
    assert "is not served here: the only model is pets, version 3" in got[name]["message"]


def test_the_configuration_leaves_out_the_batch_axis(results: dict[str, Results]) -> None:
    http, grpc = results["http"]["config"], as_numbers(results["grpc"]["config"]["config"])
    assert http["input"] == grpc["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [6]}]
    assert http["output"] == grpc["output"] == [{"name": "scores", "data_type": "TYPE_FP32", "dims": [3]}]
    assert http["max_batch_size"] == grpc["max_batch_size"] == 64
    assert http["version_policy"] == grpc["version_policy"] == {"specific": {"versions": [3]}}
    assert http["instance_group"] == grpc["instance_group"] == [{"name": "pets", "count": 1, "kind": "KIND_CPU"}]


def test_the_index_lists_the_model(results: dict[str, Results]) -> None:
    entry = {"name": "pets", "version": "3", "state": "READY"}
    assert results["http"]["index"] == [{**entry, "reason": ""}]
    assert results["grpc"]["index"] == {"models": [entry]}


@pytest.mark.parametrize(
    ("transport", "name", "count"),
    [
        ("http", "scores", 2),
        ("http", "json", 2),
        ("http", "gzip", 2),
        ("http", "deflate", 2),
        ("http", "long_gzip", 500),
        ("grpc", "scores", 2),
        ("grpc", "gzip", 2),
        ("grpc", "deflate", 2),
    ],
)
def test_samples_are_scored(got: Results, name: str, count: int) -> None:
    np.testing.assert_allclose(got[name]["scores"], scores(count), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("transport", "name", "count"),
    [
        ("http", "classes", 2),
        ("http", "json_classes", 1),
        ("http", "all_classes", 3),
        ("grpc", "classes", 2),
        ("grpc", "all_classes", 3),
    ],
)
def test_class_count_returns_the_highest_scores_with_their_labels(got: Results, name: str, count: int) -> None:
    received, expected = got[name]["scores"], top(count)
    labels = [[text.split(":", 1)[1] for text in row] for row in received]
    assert labels == [[text.split(":", 1)[1] for text in row] for row in expected]
    numbers = [[float(text.partition(":")[0]) for text in row] for row in received]
    np.testing.assert_allclose(numbers, [[float(text.partition(":")[0]) for text in row] for row in expected], atol=2e-6)
    assert all(len(text.partition(":")[0].partition(".")[2]) == 6 for row in received for text in row)


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("unknown_output", {"404", "StatusCode.NOT_FOUND"}, "unknown output other: the model's outputs are scores"),
        (
            "wrong_shape",
            {"400", "StatusCode.INVALID_ARGUMENT"},
            "input x must have shape [N, 6], but the samples have shape [2, 3]",
        ),
        ("sequence", {"400", "StatusCode.INVALID_ARGUMENT"}, "sequence_id must be absent"),
        ("no_samples", {"400", "StatusCode.INVALID_ARGUMENT"}, "at least one sample is needed"),
    ],
)
def test_a_request_that_does_not_fit_is_an_error_of_the_caller(got: Results, name: str, status: set[str], message: str) -> None:
    assert got[name]["status"] in status
    assert message in got[name]["message"]


def test_statistics_count_every_answered_request(got: Results, transport: str) -> None:
    (model,) = as_numbers(got["statistics"])["model_stats"]
    answered = {"http": 8, "grpc": 7}[transport]
    samples = {"http": 7 * 2 + 500, "grpc": 5 * 2 + 2}[transport]
    assert (model["name"], model["inference_count"]) == ("pets", samples)
    steps = model["inference_stats"]
    assert [steps[name]["count"] for name in ("success", "compute_input", "compute_infer", "queue")] == [answered] * 4
    parts = sum(steps[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < steps["compute_infer"]["ns"] < parts <= steps["success"]["ns"] * 1.01
    assert sum(row["compute_infer"]["count"] for row in model["batch_stats"]) == model["execution_count"] == answered
    assert got["all_statistics"] == got["statistics"]


def test_grpc_needs_the_key_but_for_probes(results: dict[str, Results]) -> None:
    got = results["grpc"]
    assert got["probe_without_key"] is True
    assert {got["no_key"]["status"], got["wrong_key"]["status"]} == {"StatusCode.UNAUTHENTICATED"}
    assert got["no_key"]["message"].endswith("but no key was sent")


def test_a_stream_continues_after_a_request_that_does_not_fit(results: dict[str, Results]) -> None:
    first, second, third = results["grpc"]["stream"]
    np.testing.assert_allclose(first, scores(1), rtol=1e-4, atol=1e-6)
    assert "input x must have shape [N, 6]" in second
    assert third == first
