"""`POST /score` over real HTTP: results equal to the runtime, inputs that do not fit rejected."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from edgewright.contracts.variant import LayerKind, VariantDirectory
from tests.support.serving_fixtures import Client
from tests.support.tiny_variants import expected_scores, tiny_samples

NPY = "application/x-npy"


def runtime_scores(variant: VariantDirectory, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Run onnxruntime directly, without code of ours."""
    session = onnxruntime.InferenceSession(str(variant.file(LayerKind.GRAPH)), providers=["CPUExecutionProvider"])
    scores: npt.NDArray[np.float32] = session.run(None, {"x": x})[0]
    return scores


def npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return stream.getvalue()


@pytest.mark.parametrize("count", [1, 5])
def test_json_results_equal_the_runtime_exactly(client: Client, variant: VariantDirectory, count: int) -> None:
    x = tiny_samples(count)
    reply = client.post("/score", {"data": x.tolist()})
    assert reply.status == 200
    np.testing.assert_array_equal(np.array(reply.json["result"], np.float32), runtime_scores(variant, x))


def test_labels_are_the_names_of_the_best_classes(client: Client) -> None:
    x = tiny_samples(6)
    names = ("cat", "dog", "eel")
    assert client.post("/score", {"data": x.tolist()}).json["labels"] == [names[c] for c in expected_scores(x).argmax(axis=1)]


def test_inputs_may_be_given_by_name(client: Client) -> None:
    x = tiny_samples(2).tolist()
    assert client.post("/score", {"data": {"x": x}}).json == client.post("/score", {"data": x}).json


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(tiny_samples(4), id="as the model wants it"),
        pytest.param(tiny_samples(4).astype(np.float64), id="wider"),
        pytest.param(np.asfortranarray(tiny_samples(4)), id="by column"),
        pytest.param(tiny_samples(4).astype(">f4"), id="big-endian"),
    ],
)
def test_npy_goes_in_and_out_exactly(client: Client, variant: VariantDirectory, sent: npt.NDArray[Any]) -> None:
    reply = client.post("/score", npy(sent), NPY)
    assert reply.headers["content-type"] == NPY
    np.testing.assert_array_equal(np.load(io.BytesIO(reply.body)), runtime_scores(variant, sent.astype(np.float32)))


def test_the_client_chooses_the_format_of_the_response(client: Client) -> None:
    x = tiny_samples(1)
    assert client.post("/score", npy(x), NPY, accept="application/json").json["labels"]
    assert np.load(io.BytesIO(client.post("/score", {"data": x.tolist()}, accept=NPY).body)).shape == (1, 3)
    both = "application/json, application/x-npy"  # as a generated client sends
    assert client.post("/score", {"data": x.tolist()}, accept=both).json["labels"]
    assert np.load(io.BytesIO(client.post("/score", npy(x), NPY, accept=both).body)).shape == (1, 3)


def test_many_concurrent_clients_each_get_their_own_result(client: Client) -> None:
    samples = tiny_samples(200)
    expected = expected_scores(samples)

    def ask(place: int) -> bool:
        reply = client.post("/score", {"data": samples[place : place + 1].tolist()})
        return reply.status == 200 and np.allclose(reply.json["result"], expected[place], rtol=1e-4)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(len(samples))))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"{", r"the body must be JSON: ", id="cut off"),
        pytest.param(b"\xff\xfe", r"the body must be JSON: ", id="no text"),
        pytest.param(b"", r"the body must be JSON: ", id="empty"),
        pytest.param([1], r'must be a JSON object with the field "data" for x float32\[N, 6\]', id="no object"),
        pytest.param({"inputs": []}, r'the field "data" for x float32\[N, 6\]', id="no data"),
        pytest.param({"data": [[1, 2, 3]]}, r"must have shape \[N, 6\], but the samples have shape \[1, 3\]", id="shape"),
        pytest.param({"data": [1, 2, 3, 4, 5, 6]}, r"must have shape \[N, 6\], but the samples have shape \[6\]", id="axes"),
        pytest.param({"data": 5}, r"must have shape \[N, 6\], but the samples have shape \[\]", id="one number"),
        pytest.param({"data": []}, r"must have shape \[N, 6\], but the samples have shape \[0\]", id="nothing"),
        pytest.param({"data": [[1, 2], [3]]}, r"input x must be regular nested lists of numbers: ", id="ragged"),
        pytest.param({"data": [["1", "2", "3", "4", "5", "6"]]}, r"input x must be float32, but text was found", id="text"),
        pytest.param({"data": [[None] * 6]}, r"must be float32, but a mixture with null", id="null"),
        pytest.param({"data": [[True] * 6]}, r"input x must be float32, but bool was found", id="bool"),
        pytest.param({"data": [[True, 0.5, 1, 2, 3, 4]]}, r"a mixture of numbers and true or false was found", id="some bool"),
        pytest.param({"data": [[0] * 6, [0, False, 0, 0, 0, 0]]}, r"must be float32, but a mixture", id="bool in a later row"),
        pytest.param({"data": [["1", 2, 3, 4, 5, 6]]}, r"must be float32, but text was found", id="some text"),
        pytest.param({"data": [[1e39, 0, 0, 0, 0, 0]]}, r"input x must fit float32, but 1e\+39 does not", id="too large"),
        pytest.param({"data": {"y": [[1]]}}, r"unknown input y: the model's inputs are x float32\[N, 6\]", id="unknown name"),
        pytest.param({"data": {}}, r"the model's input x float32\[N, 6\] is missing", id="missing name"),
        pytest.param({"data": [[{}] * 6]}, r"must be float32, but a mixture", id="objects"),
    ],
)
def test_json_that_does_not_fit_is_a_400_that_states_expected_and_received(client: Client, body: Any, message: str) -> None:
    reply = client.post("/score", body)
    assert reply.status == 400
    assert re.search(message, reply.json["error"]), reply.json["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", r"must be one array in the \.npy format", id="empty"),
        pytest.param(b"\x93NUMPY\x01\x00", r"must be one array in the \.npy format", id="header cut off"),
        pytest.param(b"PK\x03\x04 a zip", r"must be one array in the \.npy format", id="npz"),
        pytest.param(npy(tiny_samples(2))[:-1], r"header declares float32\[2, 6\], but 47 bytes follow", id="cut off"),
        pytest.param(npy(tiny_samples(2)) + b"x", r"header declares float32\[2, 6\], but 49 bytes follow", id="too long"),
        pytest.param(npy_header((10**13, 6)), r"header declares float32\[10000000000000, 6\], but 0 bytes", id="terabytes"),
        pytest.param(npy(np.array([object()])), r"must hold plain numbers, not object", id="pickle"),
        pytest.param(npy(np.zeros((1, 5), np.float32)), r"must have shape \[N, 6\]", id="shape"),
        pytest.param(npy(np.zeros((1, 6), bool)), r"must be float32, but bool was found", id="dtype"),
    ],
)
def test_npy_that_does_not_fit_is_a_400(client: Client, body: bytes, message: str) -> None:
    reply = client.post("/score", body, NPY)
    assert reply.status == 400
    assert re.search(message, reply.json["error"]), reply.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        pytest.param("GET", "/scores", 404, r"/scores is not served here; there are /score, ", id="unknown path"),
        pytest.param("GET", "/score", 405, r"/score accepts POST, not GET", id="reading a scoring path"),
        pytest.param("POST", "/stats", 405, r"/stats accepts GET, HEAD, not POST", id="writing statistics"),
        pytest.param("GET", "/v2/models/dogs", 404, r"the only model is pets, version 3", id="another model"),
        pytest.param("GET", "/v2/models/pets/versions/2", 404, r"the only model is pets, version 3", id="another version"),
    ],
)
def test_an_unknown_path_or_method_is_an_error(client: Client, method: str, path: str, status: int, message: str) -> None:
    reply = client.send(method, path)
    assert reply.status == status
    assert re.search(message, reply.json["error"])


def test_an_unsupported_method_gets_the_supported_one_in_the_allow_header(client: Client) -> None:
    assert client.send("DELETE", "/score").headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/healthz", "/stats", "/metrics", "/openapi.json", "/v2", "/v2/health/ready"])
def test_head_answers_as_get_without_a_body(client: Client, path: str) -> None:
    head, get = client.send("HEAD", path), client.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert client.get("/healthz").status == 200, "the connection can be used again"


def test_head_of_a_scoring_path_is_a_405(client: Client) -> None:
    assert client.send("HEAD", "/score").status == 405


def test_a_body_that_names_the_identity_encoding_is_scored(client: Client) -> None:
    assert client.post("/score", {"data": tiny_samples(1).tolist()}, content_encoding="identity").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no Content-Type"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, id="the default of urllib and curl"),
    ],
)
def test_json_is_scored_if_the_client_does_not_name_it(client: Client, headers: dict[str, str]) -> None:
    x = tiny_samples(2)
    reply = client.send("POST", "/score", json.dumps({"data": x.tolist()}).encode(), headers)
    assert (reply.status, reply.json) == (200, client.post("/score", {"data": x.tolist()}).json)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        pytest.param("application/x-www-form-urlencoded", b"data=1&data=2", id="a form"),
        pytest.param("text/plain", b'{"data": []}', id="another type"),
    ],
)
def test_a_body_of_an_unsupported_type_is_a_415(client: Client, media_type: str, body: bytes) -> None:
    reply = client.post("/score", body, media_type)
    assert (reply.status, reply.json["error"]) == (
        415,
        f"Content-Type must be application/json or application/x-npy, not {media_type}",
    )


def test_json_with_a_mistake_is_a_400_also_with_the_type_that_curl_sends(client: Client) -> None:
    reply = client.post("/score", b'{"data": [[NaN, 1, 1, 1, 1, 1]]}', "application/x-www-form-urlencoded")
    assert (reply.status, reply.json["error"].startswith("the body must be JSON: ")) == (400, True)
