"""Entry scripts over HTTP: what Azure ML's inference server does with the same script, and what ours adds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.options import ScriptOptions
from tests.support.serving_fixtures import Client, serving

PLAIN = """
import json, os, sys, time, logging
import numpy as np

calls = 0

def init():
    global model
    model = open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "factor.txt")).read()

def run(data):
    global calls
    calls += 1
    body = json.loads(data)
    what = body.get("do")
    if what == "double":
        print("doubling")
        logging.getLogger("model").warning("careful")
        return [float(model) * number for number in body["data"]]
    if what == "array":
        return np.arange(6, dtype=np.float32).reshape(2, 3).T
    if what == "nan":
        return [float("nan"), float("inf"), 1.0]
    if what == "text":
        return "as text"
    if what == "object":
        return object()
    if what == "raise":
        raise ValueError("secret of the script")
    if what == "exit":
        sys.exit(3)
    if what == "die":
        os._exit(9)
    if what == "hang":
        time.sleep(60)
    return {"calls": calls, "process": os.getpid()}
"""

DECLARED = """
import numpy as np
from edgewright.azureml.inference_schema.schema_decorators import input_schema, output_schema
from edgewright.azureml.inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from edgewright.azureml.inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType

def init():
    pass

@input_schema("data", NumpyParameterType(np.array([[10, 9, 8]])))
@input_schema("scale", StandardPythonParameterType(1.0), optional=True)
@output_schema(NumpyParameterType(np.array([3726.995])))
def run(data, scale=1.0):
    assert data.dtype == np.int64
    return data.sum(axis=1) * scale
"""

RAW = """
from edgewright.azureml.contrib.services.aml_request import AMLRequest, rawhttp
from edgewright.azureml.contrib.services.aml_response import AMLResponse

def init():
    pass

@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse(request.args, 200, json_str=True)
    return AMLResponse(request.get_data()[::-1], 201, {"Content-Type": "application/octet-stream", "X-Size": len(request.data)})
"""

ASYNCHRONOUS = """
import asyncio, json

waiting = asyncio.Event()

async def init():
    await asyncio.sleep(0)

async def run(data):
    if json.loads(data) == "wait":
        print("waiting")
        await asyncio.wait_for(waiting.wait(), 10)
        return "woken"
    waiting.set()
    return "waking"
"""


@contextlib.contextmanager
def serving_script(folder: Path, text: str, **options: float) -> Iterator[Client]:
    script = folder / "score.py"
    script.write_text(text)
    (folder / "factor.txt").write_text("2")
    app = ScriptApp(ScriptOptions(path=script, model_directory=folder, **options), name="tested")  # type: ignore[arg-type]
    with serving(app) as client:
        yield client


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving_script(tmp_path_factory.mktemp("plain"), PLAIN, scoring_timeout_s=2.0, queue_timeout_s=20.0) as client:
        yield client


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving_script(tmp_path_factory.mktemp("declared"), DECLARED) as client:
        yield client


def test_the_body_reaches_run_as_text_and_its_result_is_json(plain: Client) -> None:
    reply = plain.post("/score", {"do": "double", "data": [1, 2.5]}, x_request_id="abc-1")
    assert (reply.status, reply.json) == (200, [2.0, 5.0])
    assert reply.headers["x-request-id"] == "abc-1"
    assert reply.headers["x-ms-run-function-failed"] == "False"
    assert float(reply.headers["x-ms-run-fn-exec-ms"]) > 0
    assert "run;dur=" in reply.headers["server-timing"]


@pytest.mark.parametrize(
    ("do", "expected"),
    [("array", [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]), ("nan", [None, None, 1.0]), ("text", "as text")],
)
def test_results_that_json_has_no_word_for(plain: Client, do: str, expected: object) -> None:
    assert plain.post("/score", {"do": do}).json == expected


@pytest.mark.parametrize("do", ["raise", "exit", "object"])
def test_a_failure_of_run_is_a_500_that_tells_nothing_internal(plain: Client, do: str) -> None:
    before = plain.get("/stats").json["errors"]
    reply = plain.post("/score", {"do": do}, x_request_id="id-7")
    assert reply.status == 500
    assert reply.headers["x-ms-run-function-failed"] == "True"
    assert reply.json == {"error": "the script failed on this request: its log has the reason under request id-7"}
    assert plain.get("/stats").json["errors"] == before + 1
    assert plain.post("/score", {}).status == 200


def test_a_script_that_parses_json_answers_a_body_that_is_not_json_with_400(plain: Client) -> None:
    reply = plain.post("/score", b'{"do": ')
    assert (reply.status, reply.headers["x-ms-run-function-failed"]) == (400, "False")
    assert reply.json == {"error": "the body must be JSON: Expecting value: line 1 column 8 (char 7)"}


def test_output_of_the_script_has_the_request_id(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving_script(tmp_path, PLAIN) as client:
        client.post("/score", {"do": "double", "data": []}, x_request_id="first-1")
        client.post("/score", {"do": "raise"}, x_request_id="second-2")
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.endswith("Z first-1 doubling")]
    assert [line for line in lines if line.endswith("Z first-1 WARNING model: careful")]
    assert [line for line in lines if line.endswith("Z second-2 ValueError: secret of the script")]


def test_a_crash_costs_its_own_request_and_the_worker_is_replaced(plain: Client) -> None:
    before = plain.post("/score", {}).json["process"]
    reply = plain.post("/score", {"do": "die"})
    assert (reply.status, reply.json) == (500, {"error": "the worker of the script ended with exit code 9 during this request"})
    after = plain.post("/score", {})
    assert (after.status, after.json["calls"]) == (200, 1)
    assert after.json["process"] != before


def test_a_request_that_hangs_is_a_504_and_the_worker_is_replaced(plain: Client) -> None:
    reply = plain.post("/score", {"do": "hang"})
    assert reply.status == 504
    assert reply.json == {"error": "the script must answer within 2 s, but it did not; its worker is replaced"}
    assert plain.post("/score", {}).status == 200


def test_a_request_that_waits_too_long_for_a_worker_is_a_503(tmp_path: Path) -> None:
    slow = "import time\ndef init(): pass\ndef run(data):\n    time.sleep(3)\n"
    with serving_script(tmp_path, slow, queue_timeout_s=0.1) as client, ThreadPoolExecutor() as threads:
        replies = [each.result() for each in [threads.submit(client.post, "/score", {}) for _ in range(3)]]
    assert sorted(reply.status for reply in replies) == [200, 503, 503]
    refused = next(reply for reply in replies if reply.status == 503)
    assert refused.headers["retry-after"] == "1"
    assert "busy" in refused.json["error"]


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ({"data": [[1, 2, 3], [4, 5, 6]]}, 200, [6.0, 15.0]),
        ({"data": [[1, 2, 3]], "scale": 2}, 200, [12.0]),
        ({"data": [[1.0, 2.0, 3.0]]}, 200, [6.0]),
        ({"data": [[1, 2]]}, 400, "data must be int64[n, 3], but the shape [1, 2] was received"),
        ({"data": [1, 2, 3]}, 400, "data must be int64[n, 3], but the shape [3] was received"),
        ({"data": [[1, 2, "x"]]}, 400, "data must be int64[n, 3], but a list with texts was received"),
        ({"data": [[1, 2.5, 3]]}, 400, "data must be int64, but it holds numbers that are not"),
        ({"data": [[True, False, True]]}, 400, "data must be int64[n, 3], but a list with booleans was received"),
        ({"data": [[1, 2], [3]]}, 400, "data must be nested lists of equal lengths"),
        ({"data": None}, 400, "data must be int64[n, 3], but null was received"),
        ({"data": [[1, 2, 3]], "scale": "2"}, 400, "scale must be a number, but a text was received"),
        ({"data": [[1, 2, 3]], "more": 1}, 400, "the fields of the body must be data, scale, but more was received"),
        ({"scale": 1}, 400, "the body must have the fields data, scale, but data is missing"),
        ([1], 400, "the body must be a JSON object with the fields data, scale"),
        (b"{", 400, "the body must be JSON"),
    ],
)
def test_declared_inputs_are_checked(declared: Client, body: object, status: int, answer: object) -> None:
    reply = declared.post("/score", body)
    assert reply.status == status
    if status == 200:
        assert reply.json == answer
    else:
        assert reply.json["error"].startswith(answer)


def test_the_documents_have_the_declared_samples(declared: Client) -> None:
    swagger, openapi = declared.get("/swagger.json").json, declared.get("/openapi.json").json
    inputs = swagger["definitions"]["ServiceInput"]
    assert swagger["swagger"] == "2.0"
    assert inputs["example"] == {"data": [[10, 9, 8]], "scale": 1.0}
    assert inputs["required"] == ["data"]
    assert inputs["properties"]["data"]["items"]["items"] == {"type": "integer"}
    assert swagger["definitions"]["ServiceOutput"]["example"] == [3726.995]
    body = openapi["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    assert declared.post("/score", body["example"]).status == 200


def test_the_probes(declared: Client) -> None:
    assert declared.get("/").body == b"Healthy"
    assert declared.get("/health/live").status == 200
    assert declared.get("/health/ready").json == {"ready": True, "workers": 1}
    assert "edgewright_requests_total" in declared.get("/metrics").body.decode()


def test_a_raw_script_gets_the_request_and_chooses_the_response(tmp_path: Path) -> None:
    with serving_script(tmp_path, RAW) as client:
        reply = client.post("/score", b"\x00abc", "application/octet-stream")
        assert (reply.status, reply.body) == (201, b"cba\x00")
        assert (reply.headers["x-size"], reply.headers["content-type"]) == ("4", "application/octet-stream")
        assert client.get("/score?a=1&b=x%20y").json == {"a": "1", "b": "x y"}


def test_calls_of_an_asynchronous_script_overlap(tmp_path: Path) -> None:
    with serving_script(tmp_path, ASYNCHRONOUS) as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.post, "/score", "wait")
        assert client.post("/score", "wake").json == "waking"
        assert waiting.result().json == "woken"


@pytest.mark.parametrize("request_id", ["a b", "x" * 101, "line%0a", "a\xe9"])
def test_a_request_id_that_a_log_cannot_hold_is_refused(plain: Client, request_id: str) -> None:
    reply = plain.post("/score", {}, x_request_id=request_id)
    assert (reply.status, "x-request-id must have" in reply.json["error"]) == (400, True)
