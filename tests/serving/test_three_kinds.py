"""The contract of every scoring service, held for a variant, an entry script and a model file alike."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import lightgbm
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV2SpecValidator, validate

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.serving.http import tokens
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, Reply, serving
from tests.support.tiny_variants import make_variant

PRIMARY, SECONDARY = "primary-key-0123456789", "secondary-key-0123456"
PUBLIC = {"/", "/docs", "/health/live", "/health/ready", "/healthz", "/v2/health/live", "/v2/health/ready"}
SCRIPT = """
import numpy as np
from edgewright.serving.scripts.parameter_types import NumpyParameterType
from edgewright.serving.scripts.schema import input_schema, output_schema
def init(): pass
@input_schema("data", NumpyParameterType(np.zeros((1, 4))))
@output_schema(NumpyParameterType(np.zeros(1)))
def run(data): return data.sum(axis=1)
"""


@dataclass(frozen=True)
class Service:
    app: HttpApp
    client: Client

    def send(self, method: str, path: str, body: bytes | None = None, key: str | None = PRIMARY, **headers: str) -> Reply:
        extra = {} if key is None else {"authorization": f"Bearer {key}"}
        return self.client.send(method, path, body, extra | {name.replace("_", "-"): value for name, value in headers.items()})

    def document(self) -> Any:
        return self.send("GET", "/openapi.json").json


def variant(folder: Path, keys: KeyFile) -> HttpApp:
    made = make_variant(folder / "fp32")
    return ScoringApp(OnnxRuntime().load(made, threads=1), made.config, model="served", version=1, keys=keys)


def script(folder: Path, keys: KeyFile) -> HttpApp:
    (folder / "score.py").write_text(SCRIPT)
    return ScriptApp(ScriptOptions(path=folder / "score.py", queue_timeout_s=20.0), name="served", keys=keys)


def model(folder: Path, keys: KeyFile) -> HttpApp:
    rows = np.random.default_rng(0).standard_normal((80, 4))
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(rows, rows.sum(axis=1)), 2)
    booster.save_model(folder / "model.txt")
    worker = "edgewright.serving.nocode.worker"
    options = ScriptOptions(path=folder / "model.txt", worker_module=worker, queue_timeout_s=20.0)
    return ScriptApp(options, name="served", backend="lightgbm", keys=keys)


@pytest.fixture(scope="module", params=[variant, script, model], ids=["variant", "script", "model file"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys.json").write_text(json.dumps({"primary": PRIMARY, "secondary": SECONDARY}))
    app = request.param(folder, KeyFile(folder / "keys.json"))
    with serving(app) as client:
        yield Service(app, client)


def test_every_route_but_the_probes_is_denied_without_a_key(service: Service) -> None:
    replies = {path: service.send(route.methods[0], path, b"{}", key=None) for path, route in service.app._routes.items()}
    assert {path for path, reply in replies.items() if reply.status != 401} == set(replies) & PUBLIC
    assert PUBLIC - {"/healthz"} <= set(replies)


def test_the_documents_are_valid_and_every_described_route_answers(service: Service) -> None:
    described = service.document()
    validate(described)
    OpenAPIV2SpecValidator(service.send("GET", "/swagger.json").json).validate()
    assert set(described["paths"]) <= set(service.app._routes)
    for path, operations in described["paths"].items():
        if "get" in operations and path != "/score":  # a script gets the query as texts, which are no array
            reply = service.send("GET", path)
            declared = operations["get"]["responses"]["200"]["content"]
            assert (path, reply.status, reply.headers["content-type"].partition(";")[0] in declared) == (path, 200, True)


def test_the_sample_of_the_documents_is_scored(service: Service) -> None:
    content = service.document()["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    sample = content.get("example", content["schema"].get("example"))
    reply = service.send("POST", "/score", json.dumps(sample).encode())
    assert reply.status == 200
    answer = service.document()["paths"]["/score"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(reply.json, {**answer, "components": service.document()["components"]})  # what it refers to


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.none(), st.booleans(), st.text(max_size=3)
)
values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=12
)
rows = st.lists(st.lists(numbers, min_size=3, max_size=7), max_size=3)
tensors = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["x", "data", "other"]),
                    "shape": st.lists(st.integers(-2, 6), max_size=3),
                    "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "none"]),
                    "data": values,
                }
            ),
            max_size=2,
        )
    }
)
bodies = st.one_of(
    st.binary(max_size=20),
    values.map(lambda value: json.dumps(value).encode()),
    st.one_of(values, rows).map(lambda value: json.dumps({"data": value}).encode()),
    st.tuples(rows, values).map(lambda pair: json.dumps({"data": pair[0], "method": pair[1]}).encode()),
    tensors.map(lambda value: json.dumps(value).encode()),
)
types = st.sampled_from(["application/json", "application/x-npy", "text/csv", "image/png", "application/octet-stream", "a/b", ""])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, media_type=types, path=st.sampled_from(["/score", "/v2/models/served/infer"]))
def test_no_body_gets_a_500_or_an_undeclared_answer(service: Service, body: bytes, media_type: str, path: str) -> None:
    reply = service.send("POST", path, body, content_type=media_type)
    declared = service.document()["paths"][path]["post"]["responses"]
    assert str(reply.status) in declared
    assert reply.status < 500
    if reply.status != 200:
        assert reply.headers["content-type"] == "application/json"
        assert list(reply.json) == ["error"]
        assert "\n" not in reply.json["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_another_method_is_a_405_that_lists_those_of_the_route(service: Service, method: str) -> None:
    reply = service.send(method, "/stats", b"")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_an_unknown_path_is_a_404(service: Service) -> None:
    assert service.send("GET", "/v2/models/other").status == 404


def test_the_page_names_no_other_host_and_its_policy_allows_its_script(service: Service) -> None:
    reply = service.send("GET", "/docs", key=None)
    text = reply.body.decode()
    assert not re.search(r"https?://|//\w+\.\w+|@import|url\(", text)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in reply.headers["content-security-policy"]


def token(**changes: Any) -> str:
    """Return a token as RFC 7515 describes it, made without the product's code but for the derived secret."""
    key = changes.get("key", SECONDARY).encode()
    parts = [{"alg": changes.get("alg", "HS256"), "typ": "JWT"}, {"exp": time.time() + changes.get("lifetime_s", 60)}]
    signed = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    derived = hmac.new(key, b"edgewright scoring token v1", hashlib.sha256).digest()
    return (
        f"{signed}.{base64.urlsafe_b64encode(hmac.new(derived, signed.encode(), hashlib.sha256).digest()).rstrip(b'=').decode()}"
    )


@pytest.mark.parametrize(
    ("credential", "status", "text"),
    [
        (lambda: SECONDARY, 200, ""),
        (lambda: tokens.issue(PRIMARY, now_s=time.time(), lifetime_s=60), 200, ""),
        (token, 200, ""),
        (lambda: token(lifetime_s=-1), 401, "the token has expired: get a new one"),
        (lambda: tokens.issue(PRIMARY, now_s=time.time() - 61, lifetime_s=60), 401, "the token has expired"),
        (lambda: tokens.issue(PRIMARY, now_s=time.time() + 600, lifetime_s=60), 401, "the token is not valid yet"),
        (lambda: token(key="another-key-0123456789"), 401, "the token was not signed with a key of this service"),
        (lambda: token(alg="none"), 401, "the token must be signed with HS256"),
        (lambda: token()[:-2], 401, "the token was not signed with a key of this service"),
        (lambda: token().rpartition(".")[0] + ".", 401, "the token was not signed with a key of this service"),
        (lambda: "another-key-0123456789", 401, "another key was sent"),
        (lambda: None, 401, "no key was sent"),
    ],
)
def test_keys_and_tokens(service: Service, credential: Any, status: int, text: str) -> None:
    reply = service.send("GET", "/stats", key=credential())
    assert (reply.status, text in reply.body.decode()) == (status, True)
    assert status == 200 or reply.headers["www-authenticate"] == "Bearer"


def test_a_body_over_the_limit_is_a_413(service: Service) -> None:
    reply = service.send("POST", "/score", b" " * ((16 << 20) + 1))
    assert (reply.status, "a body must have at most 16777216 bytes" in reply.json["error"]) == (413, True)


def test_a_client_that_leaves_is_no_failure_of_the_service(service: Service) -> None:
    head = f"POST /score HTTP/1.1\r\nauthorization: Bearer {PRIMARY}\r\ncontent-length: 99\r\n\r\n"
    for sent in (b"POST /score HT", head.encode() + b"{"):
        with contextlib.closing(socket.create_connection(("127.0.0.1", service.client.port))) as connection:
            connection.sendall(sent)
    assert service.send("GET", "/health/ready").status == 200
