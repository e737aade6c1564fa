"""Operation of the scoring server: health while scoring, limits, statistics, metrics, OpenAPI, draining."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openapi_spec_validator import validate

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec, VariantDirectory
from edgewright.errors import BadInputError, OperationError
from edgewright.serving.http.application import ServingLimits
from edgewright.serving.http.server import listen
from edgewright.serving.statistics import MAX_CLASSES, ServedModel, Statistics, predicted_classes
from edgewright.serving.variants import openapi
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, serving
from tests.support.tiny_variants import expected_scores, make_config, tiny_samples

ONE = {"data": [[0, 1, 2, 3, 4, 5]]}


class GatedSession:
    """A session whose run waits for the test."""

    def __init__(self) -> None:
        self.started, self.gate = threading.Event(), threading.Event()
        self.failure: Exception | None = None

    def run(self, inputs: Tensors) -> Tensors:
        self.started.set()
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        return {"scores": np.tile(np.array([0.2, 0.5, 0.3], np.float32), (len(inputs["x"]), 1))}

    def describe(self) -> dict[str, str]:
        return {"backend": "gated", "version": "1", "threads": "1"}

    def close(self) -> None:
        pass


def test_health_answers_while_the_model_is_scoring() -> None:
    session = GatedSession()
    with serving(ScoringApp(session, make_config(), model="slow", version=1)) as client, ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(client.post, "/score", ONE)
        assert session.started.wait(20)
        assert client.get("/healthz").json == {"status": "ok", "model": "slow", "version": 1, "variant": "fp32"}
        assert not scoring.done()
        session.gate.set()
        assert scoring.result(20).status == 200


def test_a_model_that_fails_is_a_500_in_one_line_and_counts_as_an_error() -> None:
    session = GatedSession()
    session.failure = OperationError("the accelerator does not answer")
    session.gate.set()
    with serving(ScoringApp(session, make_config(), model="m", version=1)) as client:
        reply = client.post("/score", ONE)
        assert (reply.status, reply.json) == (500, {"error": "the accelerator does not answer"})
        assert client.get("/stats").json["errors"] == 1


def test_a_defect_is_a_500_that_is_counted_and_the_server_continues(caplog: pytest.LogCaptureFixture) -> None:
    session = GatedSession()
    session.failure = ZeroDivisionError("ours")
    session.gate.set()
    with serving(ScoringApp(session, make_config(), model="m", version=1)) as client:
        assert client.post("/score", ONE).status == 500
        session.failure = None
        assert client.post("/score", ONE).status == 200
        assert client.get("/stats").json["errors"] == 1
    assert "ZeroDivisionError: ours" in caplog.text


def small_app(**limits: int) -> tuple[ScoringApp, GatedSession]:
    session = GatedSession()
    return ScoringApp(session, make_config(), model="m", version=1, limits=ServingLimits(**limits)), session


def test_a_content_length_over_the_limit_is_a_413() -> None:
    app, _ = small_app(max_body_bytes=100)
    with serving(app) as client:
        reply = client.post("/score", b"x" * 101)
        assert (reply.status, reply.json["error"]) == (413, "a body must have at most 100 bytes, not 101")


def test_a_chunked_body_over_the_limit_is_a_413() -> None:
    app, _ = small_app(max_body_bytes=100)
    chunks = b"".join(b"20\r\n" + b"x" * 32 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n"
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(app) as client, socket.create_connection(("127.0.0.1", client._pool.port or 0), timeout=20) as raw:
        raw.sendall(head + chunks)
        assert raw.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert client.get("/healthz").status == 200


def test_headers_over_64_kib_are_a_431_before_the_model_is_asked() -> None:
    app, session = small_app()
    with serving(app) as client, socket.create_connection(("127.0.0.1", client._pool.port or 0), timeout=20) as raw:
        raw.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (80 << 10))
        assert raw.recv(65536).startswith(b"HTTP/1.1 431 ")
        assert not session.started.is_set()
        assert client.get("/healthz").status == 200


def test_waiting_requests_are_bounded_and_the_others_get_retry_after() -> None:
    app, session = small_app(max_held_bytes=50)
    with serving(app) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/score", ONE)
        assert session.started.wait(20)
        second = client.post("/score", ONE)
        assert (second.status, second.headers["retry-after"]) == (503, "1")
        session.gate.set()
        assert first.result(20).status == 200
        assert client.post("/score", ONE).status == 200


def test_a_request_that_waits_longer_than_the_limit_gets_503_with_retry_after() -> None:
    session = GatedSession()
    app = ScoringApp(session, make_config(), model="m", version=1, queue_timeout_s=0.2)
    with serving(app) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/score", ONE)
        assert session.started.wait(20)
        second = client.post("/score", ONE)
        assert (second.status, second.headers["retry-after"]) == (503, "1")
        session.gate.set()
        assert first.result(20).status == 200
        assert client.get("/stats").json["rejected"] == 1


def test_the_statistics_distinguish_rejected_from_failed(variant: VariantDirectory) -> None:
    x = tiny_samples(10)
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3)
    with serving(app) as client:
        client.post("/score", {"data": x[:7].tolist()})
        client.post("/score", {"data": x[7:].tolist()})
        client.post("/score", {"data": "nonsense"})
        client.get("/nowhere")
        stats = client.get("/stats").json
    names = [("cat", "dog", "eel")[number] for number in expected_scores(x).argmax(axis=1)]
    assert stats["predictions"] == {name: names.count(name) for name in sorted(set(names))}
    assert (stats["count"], stats["samples"], stats["rejected"], stats["errors"]) == (2, 10, 1, 0)
    assert 0 < stats["latency_ms"]["p50"] <= stats["latency_ms"]["p95"] <= stats["latency_ms"]["p99"]
    assert (stats["model"], stats["version"], stats["variant"], stats["backend"]) == ("pets", 3, "fp32", "onnxruntime")
    assert (stats["runs_on"]["backend"], stats["runs_on"]["threads"]) == ("onnxruntime", "1")


def test_the_metrics_follow_the_text_format_of_prometheus(client: Client) -> None:
    client.post("/score", ONE)
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = samples_of(reply.body)
    info = 'edgewright_model_info{model="pets",version="3",variant="fp32",backend="onnxruntime",precision="fp32"}'
    assert values[info] == "1"
    scored = int(values['edgewright_requests_total{outcome="scored"}'])
    assert int(values["edgewright_request_seconds_count"]) == scored >= 1
    assert int(values['edgewright_request_seconds_bucket{le="+Inf"}']) == scored


def samples_of(body: bytes) -> dict[str, str]:
    """Parse the text format: every line but comments is a name with its labels, a space, and a value."""
    text = body.decode()
    samples = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    assert len(samples) == len(re.findall(r"^[^#]", text, re.MULTILINE))
    return dict(samples)


def statistics() -> Statistics:
    return Statistics(ServedModel(model='a"b\\c', version=1, variant="v", backend="b", precision="fp32"))


def test_names_in_metrics_are_escaped() -> None:
    assert r'model="a\"b\\c"' in statistics().prometheus()


def test_a_bucket_counts_requests_up_to_its_bound() -> None:
    counted = statistics()
    counted.scored(1, 0.001, ())
    counted.scored(1, 0.0011, ())
    lines = counted.prometheus()
    assert 'bucket{le="0.0005"} 0\n' in lines
    assert 'bucket{le="0.001"} 1\n' in lines
    assert 'bucket{le="0.0025"} 2\n' in lines


def test_the_number_of_counted_classes_is_bounded() -> None:
    counted = statistics()
    counted.scored(MAX_CLASSES + 5, 0.001, [str(number) for number in range(MAX_CLASSES + 5)])
    predictions = counted.summary().predictions
    assert len(predictions) == MAX_CLASSES + 1
    assert predictions["other"] == 5


@pytest.mark.parametrize(
    ("first", "labels", "classes"),
    [
        pytest.param(np.array([[0.1, 0.9], [0.8, 0.2]]), ("no", "yes"), ["yes", "no"], id="scores with names"),
        pytest.param(np.array([[0.1, 0.9]]), (), ["1"], id="scores without names"),
        pytest.param(np.array([2, 7]), ("a", "b", "c"), ["c", "7"], id="class numbers"),
        pytest.param(np.array(["cat"], dtype=object), (), ["cat"], id="class names"),
        pytest.param(np.array([[0.5], [0.7]]), (), None, id="a regression"),
        pytest.param(np.zeros((1, 3, 8, 8)), (), None, id="an image"),
    ],
)
def test_the_predicted_class_is_read_from_the_first_output(
    first: Any, labels: tuple[str, ...], classes: list[str] | None
) -> None:
    assert predicted_classes({"y": first, "z": np.zeros((len(first), 2))}, labels) == classes


@pytest.mark.parametrize(
    ("first", "labels", "values", "classes"),
    [
        pytest.param([3, 7], ("cat", "dog"), ("3", "7"), ["cat", "dog"], id="numbers of renamed classes"),
        pytest.param([1, 2], ("1", "2"), (), ["1", "2"], id="numbers of classes"),
        pytest.param([1, 0], ("no", "yes"), ("0", "1"), ["yes", "no"], id="indices"),
        pytest.param([9, 3], ("cat", "dog"), ("3", "7"), ["9", "cat"], id="another number"),
        pytest.param([[0.1, 0.9], [0.8, 0.2]], ("cat", "dog"), ("3", "7"), ["dog", "cat"], id="scores"),
    ],
)
def test_an_output_of_class_numbers_is_named_by_the_values_of_the_source(
    first: Any, labels: tuple[str, ...], values: tuple[str, ...], classes: list[str]
) -> None:
    assert predicted_classes({"y": np.array(first)}, labels, values) == classes


def test_the_document_is_valid_openapi_and_lists_every_route(client: Client) -> None:
    described = client.get("/openapi.json").json
    validate(described)
    readable = [path for path, operations in described["paths"].items() if "get" in operations]
    assert [client.get(path).status for path in readable] == [200] * len(readable)
    data = described["components"]["schemas"]["ScoreRequest"]["properties"]["data"]
    number = {"type": "number", "format": "float"}
    assert data == {"type": "array", "items": {"type": "array", "items": number, "minItems": 6, "maxItems": 6}, "minItems": 1}


def test_a_model_of_several_inputs_is_described_by_name() -> None:
    inputs = (TensorSpec(name="a", dtype="int64", shape=("N", 2)), TensorSpec(name="b", dtype="object", shape=("N",)))
    described = openapi.document(make_config(inputs=inputs), model="m", version=1)
    validate(described)
    assert described["components"]["schemas"]["ScoreRequest"]["properties"]["data"]["required"] == ["a", "b"]


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with listen() as taken, pytest.raises(BadInputError, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address already in use"):
        listen(port=taken.getsockname()[1])


DRAINING = """
import sys
from pathlib import Path
import numpy as np
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.http.server import listen, run_server

class Session:
    def run(self, inputs):
        print("scoring", flush=True)
        sys.stdin.readline()
        return {"scores": np.zeros((1, 3), np.float32)}
    def describe(self):
        return {"backend": "slow", "version": "1", "threads": "1"}
    def close(self):
        pass

socket = listen()
print(socket.getsockname()[1], flush=True)
config = VariantDirectory.open(Path(sys.argv[1])).config
run_server(ScoringApp(Session(), config, model="m", version=1), socket=socket)
print("drained", flush=True)
"""


def test_on_sigterm_open_requests_are_answered_and_the_process_exits_with_zero(variant: VariantDirectory) -> None:
    command = [sys.executable, "-c", DRAINING, str(variant.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        client = Client(int(process.stdout.readline()))
        with ThreadPoolExecutor(1) as pool:
            scoring = pool.submit(client.post, "/score", ONE)
            assert process.stdout.readline() == "scoring\n"
            process.send_signal(signal.SIGTERM)
            process.stdin.write("go\n")
            process.stdin.flush()
            assert json.loads(scoring.result(20).body)["result"] == [[0.0, 0.0, 0.0]]
        client.close()
        assert process.stdout.readline() == "drained\n"
        assert process.wait(20) == 0
