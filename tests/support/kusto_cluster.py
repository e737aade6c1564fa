"""A fake of a Kusto cluster: the requests that a copy of measurements sends, checked by the documented protocol.

Sources: "Streaming ingestion HTTP request", "Query/management HTTP request" and "HTTP response", Azure Data Explorer. Rows of a
request are stored before its answer, as a real cluster does; `faults` change the answer, or refuse before rows are stored.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LOST_ANSWER = "store the rows, then close the connection without an answer"
TYPES = {"string": str, "long": int, "real": float, "datetime": str, "dynamic": dict}


@dataclass
class Fault:
    """An answer in place of the normal one, to a request of the kind `mgmt` or `ingest`."""

    kind: str
    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeCluster:
    """The state of a cluster: tables of one database, and what was received."""

    database: str
    token: str | None
    server: ThreadingHTTPServer
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    mappings: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    streaming: set[str] = field(default_factory=set)
    views: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    request_ids: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Requests that the documented protocol does not allow."""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def view(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a materialized view: one for each combination of its keys."""
        table, keys = self.views[name]
        return list({tuple(row[key] for key in keys): row for row in self.rows[table]}.values())

    def manage(self, command: str) -> None:
        """Execute a management command; raise ValueError for one that this fake does not know."""
        if match := re.fullmatch(r"\.create-merge table (\w+) \((.*)\)", command):
            columns = dict(column.split(":") for column in match[2].split(", "))
            assert set(columns.values()) <= set(TYPES), columns
            self.columns.setdefault(match[1], {}).update(columns)
            self.rows.setdefault(match[1], [])
        elif match := re.fullmatch(r"\.create-or-alter table (\w+) ingestion json mapping '(\w+)' '(.*)'", command):
            paths = {each["column"]: each["Properties"]["Path"] for each in json.loads(match[3])}
            assert set(paths) <= set(self.columns[match[1]])
            self.mappings[match[1], match[2]] = paths
        elif match := re.fullmatch(r"\.alter table (\w+) policy streamingingestion enable", command):
            self.streaming.add(match[1])
        elif match := re.fullmatch(
            r"\.create ifnotexists materialized-view (\w+) on table (\w+) \{ (\w+) \| summarize take_any\(\*\) by (.*) \}",
            command,
        ):
            keys = match[4].split(", ")
            assert match[2] == match[3]
            assert set(keys) <= set(self.columns[match[2]])
            self.views.setdefault(match[1], (match[2], keys))
        else:
            raise ValueError(command)

    def ingest(self, table: str, mapping: str, body: bytes) -> int:
        """Store rows of lines of JSON through a mapping, and return their number."""
        paths = self.mappings[table, mapping]
        documents = [json.loads(line) for line in body.splitlines()]
        for document in documents:
            row = {column: document[path.removeprefix("$.")] for column, path in paths.items()}
            for column, value in row.items():
                assert isinstance(value, TYPES[self.columns[table][column]]), (column, value)
            self.rows[table].append(row)
        return len(documents)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: FakeCluster

    def do_GET(self) -> None:
        """Answer the login addresses of the public cloud, which a client reads before it gets a token."""
        login = {
            "LoginEndpoint": "https://login.microsoftonline.com",
            "LoginMfaRequired": False,
            "KustoClientAppId": "db662dc1-0cfe-4e1c-a843-19a68e65be58",
            "KustoClientRedirectUri": "http://localhost",
            "KustoServiceResourceId": "https://kusto.kusto.windows.net",
            "FirstPartyAuthorityUrl": "https://login.microsoftonline.com/common",
        }
        is_metadata = self.path == "/v1/rest/auth/metadata"
        self._answer(200 if is_metadata else 404, json.dumps({"AzureAD": login}) if is_metadata else "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = "ingest" if self.path.startswith("/v1/rest/ingest/") else "mgmt"
        self._check_headers()
        cluster = self.cluster
        if cluster.token is not None and self.headers.get("Authorization") != f"Bearer {cluster.token}":
            self._answer(401, "")
            return
        fault = next((each for each in cluster.faults if each.kind == kind), None)
        if fault is not None:
            cluster.faults.remove(fault)
            if fault.body == LOST_ANSWER:
                self._serve(kind, body)
                self.close_connection = True
                self.connection.close()
            else:
                self._answer(fault.status, fault.body, fault.headers)
        else:
            status, answer = self._serve(kind, body)
            self._answer(status, json.dumps(answer))

    def _serve(self, kind: str, body: bytes) -> tuple[int, Any]:
        try:
            return self._manage(body) if kind == "mgmt" else self._ingest(body)
        except (AssertionError, KeyError, ValueError) as error:
            self.cluster.violations.append(f"{self.path}: {error!r}")
            return 400, service_error("BadRequest", f"{error!r}", permanent=True)

    def _manage(self, body: bytes) -> tuple[int, Any]:
        assert self.path == "/v1/rest/mgmt", self.path
        assert (self.headers["Content-Type"] or "").startswith("application/json")
        sent = json.loads(body)
        if sent["db"] != self.cluster.database:
            return 400, unknown_database(sent["db"])
        self.cluster.manage(sent["csl"])
        column = {"ColumnName": "Result", "DataType": "String", "ColumnType": "string"}
        return 200, {"Tables": [{"TableName": "Table_0", "Columns": [column], "Rows": [["ok"]]}]}

    def _ingest(self, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        database, table = (unquote(each) for each in parts.path.removeprefix("/v1/rest/ingest/").split("/"))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if database != self.cluster.database:
            return 400, unknown_database(database)
        assert table in self.cluster.streaming, f"streaming ingestion is not enabled for {table}"
        assert query["streamFormat"].lower() == "json", query
        assert self.headers["Content-Encoding"] == "gzip"
        assert len(gzip.decompress(body)) <= 4 * 2**20
        self.cluster.request_ids.append(self.headers["x-ms-client-request-id"])
        count = self.cluster.ingest(table, query["mappingName"], gzip.decompress(body))
        column = {"ColumnName": "ConsumedRecordsCount", "DataType": "Int64", "ColumnType": "long"}
        return 200, {"Tables": [{"TableName": "Table_0", "Columns": [column], "Rows": [[count]]}]}

    def _check_headers(self) -> None:
        for name in ("Accept", "x-ms-client-request-id"):
            if not self.headers.get(name):
                self.cluster.violations.append(f"{self.path}: no header {name}")

    def _answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(text.encode())),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


def unknown_database(name: str) -> Any:
    return service_error("BadRequest_EntityNotFound", f"Database '{name}' could not be found.", permanent=True)


def service_error(code: str, message: str, *, permanent: bool) -> Any:
    """Return the error document of the service (OneApiErrors)."""
    return {"error": {"code": code, "message": message, "@type": "Kusto", "@message": message, "@permanent": permanent}}


@contextmanager
def kusto_cluster(database: str = "fleet", token: str | None = None) -> Iterator[FakeCluster]:
    """Yield a cluster with one empty database, on a free port."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    cluster = FakeCluster(database, token, server)
    handler.cluster = cluster  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
