"""The Open Inference Protocol, compared with an encoder that is part of the test."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np
import pytest

from edgewright.contracts.variant import TensorSpec, VariantDirectory
from edgewright.errors import SamplesError
from edgewright.serving.http.messages import Request
from edgewright.serving.variants import open_inference
from tests.serving.variants.test_score import runtime_scores
from tests.support.serving_fixtures import Client
from tests.support.tiny_variants import tiny_samples

INFER = "/v2/models/pets/infer"


def binary_request(x: np.ndarray[Any, Any], **top: Any) -> tuple[bytes, dict[str, str]]:
    """Write a request as the extension's document describes it: JSON, then little-endian floats row by row."""
    floats = [float(value) for row in x for value in row]
    blob = struct.pack(f"<{len(floats)}f", *floats)
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [tensor], **top}).encode()
    return head + blob, {"Inference_Header_Content_Length": str(len(head))}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 6], "datatype": "FP32", "data": [0, 1, 2, 3, 4, 5], **changes}


@pytest.mark.parametrize("path", [INFER, "/v2/models/pets/versions/3/infer"])
def test_json_tensors_are_scored(client: Client, variant: VariantDirectory, path: str) -> None:
    x = tiny_samples(2)
    request = {"id": "42", "inputs": [tensor(shape=[2, 6], data=x.reshape(-1).tolist())]}
    answer = client.post(path, request).json
    (output,) = answer.pop("outputs")
    assert answer == {"model_name": "pets", "model_version": "3", "id": "42"}
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [2, 3])
    np.testing.assert_array_equal(np.float32(output["data"]).reshape(2, 3), runtime_scores(variant, x))


def test_nested_data_is_the_same_as_flat(client: Client) -> None:
    flat = client.post(INFER, {"inputs": [tensor()]}).json
    assert client.post(INFER, {"inputs": [tensor(data=[[0, 1, 2, 3, 4, 5]])]}).json == flat


def test_binary_tensors_go_in_and_out_exactly(client: Client, variant: VariantDirectory) -> None:
    x = tiny_samples(3)
    body, headers = binary_request(x, parameters={"binary_data_output": True})
    reply = client.post(INFER, body, "application/octet-stream", **headers)
    length = int(reply.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    blob = reply.body[length:]
    assert (output["parameters"], "data" in output) == ({"binary_data_size": 36}, False)
    assert struct.unpack("<9f", blob) == tuple(map(float, runtime_scores(variant, x).reshape(-1)))


def test_one_output_can_be_requested_in_json_if_all_others_are_binary(client: Client) -> None:
    outputs = [{"name": "scores", "parameters": {"binary_data": False}}]
    body, headers = binary_request(tiny_samples(1), parameters={"binary_data_output": True}, outputs=outputs)
    reply = client.post(INFER, body, "application/octet-stream", **headers)
    assert len(reply.json["outputs"][0]["data"]) == 3


@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        pytest.param(b"{", 400, "must be an inference request in JSON", id="cut off"),
        pytest.param({}, 400, "Object missing required field `inputs`", id="no inputs"),
        pytest.param({"inputs": [{"name": "x"}]}, 400, "missing required field `shape`", id="no shape"),
        pytest.param({"inputs": []}, 400, r"the model's input x float32\[N, 6\] is missing", id="no input"),
        pytest.param({"inputs": [tensor(name="y")]}, 400, "unknown input y: the model's inputs are x", id="unknown input"),
        pytest.param({"inputs": [tensor(datatype="FP31")]}, 400, "datatype must be one of .*, not 'FP31'", id="datatype"),
        pytest.param({"inputs": [tensor(shape=[1, 5])]}, 400, r"shape \[1, 5\] needs 5 values, not 6", id="count"),
        pytest.param({"inputs": [tensor(shape=[2, 3])]}, 400, r"must have shape \[N, 6\], but .* shape \[2, 3\]", id="shape"),
        pytest.param({"inputs": [tensor(shape=[-1, 6])]}, 400, "shape must be sizes of 0 or more", id="negative"),
        pytest.param({"inputs": [tensor(data=None)]}, 400, "input x must be float32, but a mixture with null", id="no data"),
        pytest.param({"inputs": [tensor(datatype="BOOL")]}, 400, "input x must be bool, but int64 was found", id="not that type"),
        pytest.param(
            {"inputs": [tensor(parameters={"binary_data_size": 24})]},
            400,
            "binary_data_size is 24, but 0 bytes are left",
            id="size",
        ),
        pytest.param({"inputs": [tensor()], "outputs": [{"name": "z"}]}, 404, "unknown output z: .* scores", id="output"),
    ],
)
def test_requests_that_do_not_fit_are_rejected(client: Client, request_body: Any, status: int, message: str) -> None:
    reply = client.post(INFER, request_body)
    assert reply.status == status
    assert re.search(message, reply.json["error"]), reply.json["error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda body, headers: (body[:-4], headers), "binary_data_size is 24, but 20 bytes are left", id="cut off"),
        pytest.param(lambda body, headers: (body + b"1234", headers), "4 bytes follow the last tensor", id="too long"),
        pytest.param(lambda body, headers: (body, {}), "binary tensors need the header inference-header", id="no header"),
        pytest.param(
            lambda body, headers: (body, {"Inference_Header_Content_Length": "9999"}), "must be at most the body's", id="header"
        ),
        pytest.param(
            lambda body, headers: (body, {"Inference_Header_Content_Length": "-1"}), "must be at most the body's", id="negative"
        ),
    ],
)
def test_binary_bodies_of_a_wrong_size_are_rejected(client: Client, change: Any, message: str) -> None:
    body, headers = change(*binary_request(tiny_samples(1)))
    reply = client.post(INFER, body, "application/octet-stream", **headers)
    assert reply.status == 400
    assert re.search(message, reply.json["error"]), reply.json["error"]


def test_the_model_describes_itself(client: Client) -> None:
    assert client.get("/v2/models/pets").json == {
        "name": "pets",
        "versions": ["3"],
        "platform": "edgewright_onnxruntime",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/pets/ready", {"name": "pets", "ready": True}),
    ],
)
def test_health_requests_are_answered(client: Client, path: str, fact: dict[str, Any]) -> None:
    reply = client.get(path)
    assert (reply.status, reply.json) == (200, fact)


def test_the_server_names_its_extension(client: Client) -> None:
    expected = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
    assert client.get("/v2").json["extensions"] == expected


TEXTS = TensorSpec(name="t", dtype="object", shape=("N", 1))


def text_request(blob: bytes) -> Request:
    inputs = [{"name": "t", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return Request({"inference-header-content-length": str(len(head))}, head + blob)


def test_texts_are_lengths_and_utf8_both_ways() -> None:
    blob = b"\x03\x00\x00\x00abc" + b"\x02\x00\x00\x00" + "é".encode()
    infer, tensors = open_inference.decode(text_request(blob), [TEXTS])
    assert tensors["t"].tolist() == [["abc"], ["é"]]
    assert open_inference.encode(infer, tensors, model="m", version=1).body.endswith(blob)


@pytest.mark.parametrize("blob", [b"\xff\x00\x00\x00abc", b"\x01\x00", b"\x01\x00\x00\x00\xff\x01\x00\x00\x00a"])
def test_texts_with_a_wrong_length_are_rejected(blob: bytes) -> None:
    with pytest.raises(SamplesError, match="BYTES must be lengths and UTF-8 strings"):
        open_inference.decode(text_request(blob), [TEXTS])
