"""Every route of a scoring service needs a key, unless it is listed here; a new route is found in the table of routes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.grpc.server import GrpcAddress, GrpcServer, services
from edgewright.serving.http import tokens
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, serving

PRIMARY = "primary-key-0123456789"
PUBLIC = {"/", "/docs", "/health/live", "/health/ready", "/healthz", "/v2/health/live", "/v2/health/ready"}
PUBLIC_CALLS = {
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
}


def refused() -> list[str | None]:
    """Return headers that hold no valid credential."""
    expired = tokens.issue(PRIMARY, now_s=time.time() - 120, lifetime_s=60)
    foreign = tokens.issue("another-key-0123456789", now_s=time.time(), lifetime_s=60)
    return [
        None,
        "Bearer another-key-0123456789",
        f"Bearer {expired}",
        f"Bearer {foreign}",
        f"Basic {PRIMARY}",
        PRIMARY,
        "Bearer ",
    ]


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    (tmp_path / "keys.json").write_text(json.dumps({"primary": PRIMARY, "secondary": "secondary-key-0123456"}))
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture(params=["variant", "script", "model file"])
def service(
    request: pytest.FixtureRequest, variant: VariantDirectory, keys: KeyFile, tmp_path: Path
) -> Iterator[tuple[HttpApp, Client]]:
    if request.param == "variant":
        app: HttpApp = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, keys=keys)
    else:  # a model file differs from a script in its worker alone, which does not see a refused request
        (tmp_path / "score.py").write_text("def init(): pass\ndef run(data): return 1\n")
        app = ScriptApp(ScriptOptions(path=tmp_path / "score.py"), name="pets", keys=keys, backend=request.param)
    with serving(app) as client:
        yield app, client


def test_every_route_is_refused_without_a_valid_key(service: tuple[HttpApp, Client]) -> None:
    app, client = service
    headers = [{} if each is None else {"authorization": each} for each in refused()]
    for path, route in app._routes.items():
        for method in route.methods:
            statuses = {client.send(method, path, b"{}" if method == "POST" else None, each).status for each in headers}
            assert (path, method, statuses - {404, 405}) == (path, method, {200} if path in PUBLIC else {401})


def test_a_request_without_a_key_is_refused_before_its_body_is_read(service: tuple[HttpApp, Client]) -> None:
    _, client = service
    assert client.send("POST", "/score", b" " * (17 << 20), {"expect": "", "content-type": "application/json"}).status == 401


def test_every_call_of_grpc_is_refused_without_a_valid_key(variant: VariantDirectory, keys: KeyFile) -> None:
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, keys=keys)
    companion = GrpcServer(app, GrpcAddress(host="127.0.0.1", port=0))
    handlers: dict[str, Any] = {}
    for each in services(app):
        handlers |= each._method_handlers  # by the full name of the call
    assert len(handlers) > 10
    with serving(app, companion), grpc.insecure_channel(f"127.0.0.1:{companion.port}") as channel:
        for name, handler in handlers.items():
            codes = {_code(channel, name, streams=handler.request_streaming, authorization=each) for each in refused()}
            assert (name, codes) == (name, {"OK"} if name in PUBLIC_CALLS else {"UNAUTHENTICATED"})


def _code(channel: grpc.Channel, name: str, *, streams: bool, authorization: str | None) -> str:
    metadata = [] if authorization is None else [("authorization", authorization)]
    try:
        if streams:
            list(channel.stream_stream(name)(iter([b""]), timeout=60, metadata=metadata))
        else:
            channel.unary_unary(name)(b"", timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
