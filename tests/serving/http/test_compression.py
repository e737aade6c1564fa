"""Compressed bodies of requests and responses, written and read by other compressors than the server's."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.http import compression
from edgewright.serving.http.application import ServingLimits
from edgewright.serving.http.messages import HttpError, Response
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, serving
from tests.support.tiny_variants import tiny_samples

LIMIT_BYTES = 100_000
SCORING = {
    "/score": {"data": tiny_samples(1).tolist()},
    "/v2/models/pets/infer": {
        "inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": tiny_samples(1).reshape(-1).tolist()}]
    },
}


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def by_gzip_program(content: bytes) -> bytes:
    program = shutil.which("gzip")
    assert program is not None, "every Debian and macOS has gzip"
    return subprocess.run([program, "-9"], input=content, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": by_gzip_program,
    "x-gzip": gzip.compress,
    "GZIP": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),  # two members
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
}


@pytest.fixture(scope="module")
def client(variant: VariantDirectory) -> Iterator[Client]:
    limits = ServingLimits(max_body_bytes=LIMIT_BYTES, max_held_bytes=4 * LIMIT_BYTES)
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, limits=limits)
    with serving(app) as served:
        yield served


@pytest.mark.parametrize("path", SCORING)
@pytest.mark.parametrize("coding", PACKERS)
def test_a_compressed_request_is_scored_as_a_plain_one(client: Client, path: str, coding: str) -> None:
    body = json.dumps(SCORING[path]).encode()
    packed = client.post(path, PACKERS[coding](body), content_encoding=coding)
    assert packed.status == 200
    assert packed.json == client.post(path, body).json


@pytest.mark.parametrize(
    ("coding", "body", "status", "message"),
    [
        pytest.param("br", b"x", 415, "Content-Encoding must be gzip or deflate or absent, not br", id="unknown"),
        pytest.param("gzip, gzip", b"x", 415, "Content-Encoding must be gzip or deflate or absent, not gzip, gzip", id="twice"),
        pytest.param("gzip", b"{}", 400, "the body must be gzip, but it is damaged", id="not gzip"),
        pytest.param("deflate", b"\xff\xff", 400, "the body must be deflate, but it is damaged", id="not deflate"),
        pytest.param("gzip", b"", 400, "the body must be JSON", id="empty"),
        pytest.param("gzip", gzip.compress(b"{}")[:-3], 400, "the body must be gzip, but it is cut off", id="cut off"),
        pytest.param("deflate", zlib.compress(b"{}")[:-3], 400, "the body must be deflate, but it is cut off", id="cut deflate"),
        pytest.param("deflate", zlib.compress(b"{}") + b"xy", 400, "2 bytes follow its end", id="bytes after deflate"),
        pytest.param("gzip", gzip.compress(b"{}") + b"xy", 400, "must be gzip, but it is damaged", id="bytes after gzip"),
        pytest.param("gzip", gzip.compress(bytes(50 * LIMIT_BYTES)), 413, "must unpack to at most 100000 bytes", id="bomb"),
        pytest.param("deflate", zlib.compress(bytes(LIMIT_BYTES + 1)), 413, "at most 100000 bytes", id="one byte too long"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_refused(client: Client, coding: str, body: bytes, status: int, message: str) -> None:
    reply = client.post("/score", body, content_encoding=coding)
    assert reply.status == status
    assert message in reply.json["error"]
    assert (reply.headers.get("accept-encoding") == "gzip, deflate") == (status == 415)


def test_refused_bodies_leave_no_memory_reserved(client: Client) -> None:
    bomb = gzip.compress(bytes(50 * LIMIT_BYTES))
    assert {client.post("/score", bomb, content_encoding="gzip").status for _ in range(20)} == {413}
    assert client.post("/score", SCORING["/score"]).status == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        pytest.param("gzip", "gzip", id="gzip"),
        pytest.param("deflate", "deflate", id="deflate"),
        pytest.param("gzip;q=0.2, deflate;q=0.7", "deflate", id="weights"),
        pytest.param("br, *", "gzip", id="any"),
        pytest.param("gzip;q=0, deflate; q=0", None, id="refused"),
        pytest.param("identity, gzip;q=0.5", None, id="identity preferred"),
        pytest.param("br", None, id="unknown"),
        pytest.param("gzip;q=x", None, id="not a weight"),
    ],
)
def test_a_long_response_has_the_coding_that_the_client_prefers(client: Client, accepted: str, coding: str | None) -> None:
    reply = client.send("GET", "/openapi.json", headers={"accept-encoding": accepted})
    plain = client.get("/openapi.json")
    assert reply.headers.get("content-encoding") == coding
    assert reply.json == plain.json  # urllib3 unpacks
    assert (int(reply.headers["content-length"]) < len(plain.body) / 2) == (coding is not None)


def test_a_short_response_is_not_compressed(client: Client) -> None:
    reply = client.post("/score", SCORING["/score"], accept_encoding="gzip")
    assert "content-encoding" not in reply.headers


@given(st.binary(max_size=3000), st.sampled_from(["gzip", "deflate"]))
def test_what_a_response_packs_a_request_unpacks(content: bytes, coding: str) -> None:
    response = compression.compressed(Response(200, content * 3), coding)
    headers = dict(response.headers)
    restored: Any = response.body
    if "content-encoding" in headers:
        restored = compression.unpacked(response.body, headers["content-encoding"], limit_bytes=9000)
    assert restored == content * 3


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_unpacked_or_refused(body: bytes, coding: str) -> None:
    with contextlib.suppress(HttpError):  # any other exception would be a 500
        assert len(compression.unpacked(body, coding, limit_bytes=1000)) <= 1000
