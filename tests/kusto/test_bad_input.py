"""Bad input of `edgewright telemetry`: one line, exit code 2, and no measurement sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from edgewright.cli import main
from tests.support.kusto_cluster import FakeCluster, Fault, kusto_cluster, service_error
from tests.support.running_cloud import RunningCloud
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]

URI_RULE = "the address of a cluster must be https://HOST, as in https://fleet.westeurope.kusto.windows.net "
NO_FOLLOW = ("--give-up", "1ms")


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with kusto_cluster(token="secret") as started:
        yield started


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "wrong").write_text("stolen\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "damaged.json").write_text("{")
    target = {"cloud": "https://other:1", "cluster": "https://a", "database": "b", "table": "c"}
    (tmp_path / "foreign.json").write_text(json.dumps({"target": target, "queues": {}}))
    return tmp_path


def ingest(cloud: RunningCloud, *words: object) -> tuple[int, list[str]]:
    result = CliRunner().invoke(main, ["telemetry", "ingest", "--cloud", str(cloud.state), *map(str, words)])
    return result.exit_code, result.stderr.splitlines()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        *(
            pytest.param(["--to", uri, "--database", "fleet"], URI_RULE, id=f"address {uri!r}")
            for uri in (
                "fleet.kusto.windows.net",
                "http://fleet.kusto.windows.net",
                "https://",
                "https://h:99999",
                "https://h/database",
                "https://user@h",
                "https://h;Fed=True",
                "ftp://h",
                "https://[",
                "",
            )
        ),
        pytest.param(["--database", "a/b"], "the name of a database must have 1 to 260 letters", id="database"),
        pytest.param(["--database", "x", "--table", "a b"], "the name of a table must begin with a letter", id="table"),
        pytest.param(["--database", "missing"], "Database 'missing' could not be found.", id="missing database"),
        pytest.param(["--database", "fleet", "--token-file", "none"], "none: the access token cannot be read", id="no token"),
        pytest.param(
            ["--database", "fleet", "--token-file", "empty"], "must hold one access token on one line", id="empty token"
        ),
        pytest.param(
            ["--database", "fleet", "--token-file", "wrong"],
            "must accept the credential for the database fleet, but it answered 401",
            id="wrong token",
        ),
        pytest.param(
            ["--database", "fleet", "--managed-identity", "system"],
            "must be --token-file or --managed-identity",
            id="two credentials",
        ),
        pytest.param(["--database", "fleet", "--position", "damaged.json"], "the position damaged.json", id="damaged position"),
        pytest.param(
            ["--database", "fleet", "--position", "foreign.json"],
            "must be the position of this copy, but it is that of https://other:1",
            id="position of another copy",
        ),
    ],
)
def test_bad_input_ends_with_one_line(trusting_cloud: RunningCloud, cluster: FakeCluster, words: list[str], line: str) -> None:
    options = {"--to": cluster.uri, "--token-file": "token"} | dict(zip(words[::2], words[1::2], strict=True))
    code, lines = ingest(trusting_cloud, *(word for pair in options.items() for word in pair))
    assert code == 2, lines
    (message,) = lines
    assert line in message
    assert cluster.request_ids == []


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        pytest.param(
            Fault("mgmt", 403, json.dumps(service_error("Forbidden", "no role", permanent=True))), 2, "403: no role", id="403"
        ),
        pytest.param(Fault("mgmt", 429), 3, "throttles requests (429)", id="throttled for too long"),
        pytest.param(Fault("mgmt", 200, "<html>"), 2, "must be that of a Kusto cluster", id="not a cluster"),
        pytest.param(Fault("mgmt", 400, '{"x": 1}'), 3, "must be that of a Kusto cluster", id="an error in another form"),
    ],
)
def test_an_answer_of_the_cluster_is_shown_on_one_line(
    trusting_cloud: RunningCloud, cluster: FakeCluster, fault: Fault, code: int, line: str
) -> None:
    cluster.faults.append(fault)
    words = ("--to", cluster.uri, "--database", "fleet", "--token-file", "token", *NO_FOLLOW)
    exit_code, lines = ingest(trusting_cloud, *words)
    assert (exit_code, len(lines)) == (code, 1), lines
    assert line in lines[0]


def test_a_cluster_without_an_answer_is_named(trusting_cloud: RunningCloud) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    code, lines = ingest(trusting_cloud, "--to", f"http://127.0.0.1:{port}", "--database", "fleet", *NO_FOLLOW)
    assert code == 3
    assert f"no answer from the cluster http://127.0.0.1:{port}: [Errno 111] Connection refused" in lines[0]


class IdentityEndpoint(BaseHTTPRequestHandler):
    """The endpoint of managed identities of Azure App Service: header X-IDENTITY-HEADER, API version 2019-08-01."""

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        right = self.headers["X-IDENTITY-HEADER"] == "header" and query.get("client_id") == "identity-7"
        body = json.dumps(
            {"access_token": "secret", "expires_on": "4102444800", "resource": query["resource"], "token_type": "Bearer"}
        )
        self.send_response(200 if right else 400)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode() if right else b'{"message": "no such identity"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


@pytest.fixture
def identity_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), IdentityEndpoint)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    yield
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_managed_identity_is_used(trusting_cloud: RunningCloud, cluster: FakeCluster, identity_endpoint: None) -> None:
    words = ("--to", cluster.uri, "--database", "fleet", "--managed-identity")
    assert ingest(trusting_cloud, *words, "identity-7") == (0, [])
    code, lines = ingest(trusting_cloud, *words, "identity-8")
    assert (code, len(lines)) == (2, 1)
    assert f"no access token for {cluster.uri}" in lines[0]


def test_the_commands_for_an_administrator_are_printed() -> None:
    result = CliRunner().invoke(main, ["telemetry", "table", "--table", "T"])
    with kusto_cluster() as administered:
        for command in filter(None, result.stdout.splitlines()):
            administered.manage(command)
        assert (administered.streaming, administered.views) == ({"T"}, {"TOnce": ("T", ["device", "queue_id", "sequence"])})
