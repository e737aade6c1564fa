"""An API server of Kubernetes in a thread, as far as this project and kubectl use one.

    GET  /version, /api, /apis, /api/v1, /apis/GROUP/VERSION           discovery
    GET, POST, PATCH (apply), DELETE …/namespaces/NS/PLURAL[/NAME]      objects; `watch`, labelSelector, fieldSelector
    GET  …/pods/NAME/log                                               the output of a pod

Each object that a client sends, and each that the server stores, follows the published schema (`schemas.py`); a request that is
not part of the API is kept in `faults`, which a test finds empty.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.authority import make_authority, pem_of
from tests.support.kubernetes.store import Kind, Object, RefusedError, Store
from tests.support.server_certificates import server_certificate
from tests.support.tls_server import TlsServer

TOKEN = "token-of-the-tests"
_QUERY = {
    "GET": {"labelSelector", "fieldSelector", "limit", "watch", "timeoutSeconds", "resourceVersion", "resourceVersionMatch"}
    | {"allowWatchBookmarks", "container", "tailLines", "previous", "timestamps", "timeout", "continue", "sendInitialEvents"},
    "PATCH": {"fieldManager", "force", "dryRun", "fieldValidation"},
    "POST": {"fieldManager", "dryRun", "fieldValidation"},
    "DELETE": {"gracePeriodSeconds", "propagationPolicy", "dryRun"},
}


@dataclass
class ApiServer:
    """A running API server."""

    store: Store
    logs: Callable[[str, bool], str] = lambda _pod, _previous: ""
    """Output of a pod's container: of the present one, or of the one before."""
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Requests that the API does not have, and objects that the schema refuses."""
    refuses: RefusedError | None = None
    """Answer of every request, as of a server that denies the user."""
    url: str = ""
    authority: str = ""
    """Certificate (PEM) of the authority that signed the server's."""

    def kubeconfig(self, folder: Path, *, namespace: str = "ml") -> Path:
        """Write a kubeconfig with the context `tests`."""
        authority = base64.b64encode(self.authority.encode()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(document), "utf-8")
        path.chmod(0o600)
        return path


@contextlib.contextmanager
def api_server(store: Store, folder: Path) -> Iterator[ApiServer]:
    """Run an API server on a free port of this machine until the block ends."""
    authority, key = make_authority()
    server = ApiServer(store, authority=pem_of(authority))

    class Handler(_Handler):
        api = server

    with TlsServer(("127.0.0.1", 0), Handler) as listening:
        listening.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        listening.tls.load_cert_chain(*server_certificate(folder, authority, key, "127.0.0.1"))
        server.url = f"https://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            store.gone = True
            listening.shutdown()
            listening.end_connections()
            thread.join()
            server.faults.extend(listening.errors)


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        self.api.requests.append(f"{self.command} {self.path}")
        try:
            if self.api.refuses is not None:
                raise self.api.refuses
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusedError(401, "Unauthorized", "Unauthorized")
            self._answer(content)
        except RefusedError as refused:
            if refused.status["code"] in (400, 405, 415, 422):
                self.api.faults.append(f"{self.command} {self.path}: {refused}")
            self._send(refused.status["code"], refused.status)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  names of the standard library

    def _answer(self, content: bytes) -> None:
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        unknown = query.keys() - _QUERY[self.command]
        if unknown:
            raise RefusedError(400, "BadRequest", f"unknown parameters {', '.join(sorted(unknown))}")
        discovered = self._discovery(split.path)
        if discovered is not None:
            self._send(200, discovered)
            return
        kind, namespace, name, subresource = self._target(split.path)
        getattr(self, f"_{self.command.lower()}")(kind, namespace, name, subresource, query, content)

    def _get(self, kind: Kind, namespace: str, name: str, subresource: str, query: dict[str, str], _: bytes) -> None:
        store = self.api.store
        if subresource == "log":
            store.find(kind, namespace, name)
            lines = self.api.logs(name, query.get("previous", "").lower() == "true").splitlines()
            self._send_text("".join(f"{line}\n" for line in lines[-int(query.get("tailLines", "1000000")) :]))
        elif name:
            self._send(200, store.find(kind, namespace, name))
        elif query.get("watch", "").lower() in ("true", "1"):
            self._watch(kind, namespace, query)
        else:
            items = store.list(kind, namespace, _selector(query))
            self._send(
                200,
                {
                    "apiVersion": kind.group_version,
                    "kind": f"{kind.kind}List",
                    "metadata": {"resourceVersion": str(store.version)},
                    "items": items,
                },
            )

    def _patch(self, kind: Kind, namespace: str, name: str, _: str, query: dict[str, str], content: bytes) -> None:
        if self.headers["Content-Type"] != "application/apply-patch+yaml":
            raise RefusedError(415, "UnsupportedMediaType", f"no patches of type {self.headers['Content-Type']}")
        body = yaml.safe_load(content)
        if not query.get("fieldManager") or body["metadata"]["name"] != name:
            raise RefusedError(400, "BadRequest", "an apply must have a fieldManager, and the name of its path")
        written = self.api.store.apply(
            kind,
            namespace,
            body,
            manager=query["fieldManager"],
            force=query.get("force", "").lower() == "true",
            dry_run=query.get("dryRun") == "All",
        )
        self._send(200, written)

    def _post(self, kind: Kind, namespace: str, _: str, __: str, query: dict[str, str], content: bytes) -> None:
        manager = query.get("fieldManager", "unknown")
        self._send(201, self.api.store.create(kind, namespace, yaml.safe_load(content), manager=manager))

    def _delete(self, kind: Kind, namespace: str, name: str, _: str, query: dict[str, str], content: bytes) -> None:
        options = json.loads(content or b"{}") or {}
        expected = options.get("preconditions", {}).get("uid")
        if expected not in (None, self.api.store.find(kind, namespace, name)["metadata"]["uid"]):
            raise RefusedError(409, "Conflict", "the UID in the precondition does not match the UID in record")
        self._send(200, self.api.store.delete(kind, namespace, name))

    def _watch(self, kind: Kind, namespace: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        selects, deadline = _selector(query), time.monotonic() + float(query.get("timeoutSeconds", "300"))
        with contextlib.suppress(ConnectionError):
            since = query.get("resourceVersion", "")
            if since in ("", "0"):  # the state at the begin, as "Get State and Start at Any"
                since = str(self.api.store.version)
                for each in self.api.store.list(kind, namespace, selects):
                    self._event("ADDED", each)
            for change in self.api.store.watch(kind, namespace, int(since), lambda: deadline - time.monotonic()):
                if change is not None and selects(change.object):
                    self._event(change.type, change.object)
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, type_: str, changed: Object) -> None:
        line = json.dumps({"type": type_, "object": changed}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _target(self, path: str) -> tuple[Kind, str, str, str]:
        parts = path.strip("/").split("/")
        group_version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        for kind in self.api.store.kinds:
            if rest and (kind.group_version, kind.plural) == (group_version, rest[0]):
                return kind, namespace, *(*rest[1:], "", "")[:2]  # type: ignore[return-value]
        raise RefusedError(404, "NotFound", "the server could not find the requested resource")

    def _discovery(self, path: str) -> Object | None:
        kinds = self.api.store.kinds
        groups = sorted({each.group_version for each in kinds if "/" in each.group_version})
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            versions = [{"groupVersion": each, "version": each.partition("/")[2]} for each in groups]
            listed = [{"name": v["groupVersion"].partition("/")[0], "versions": [v], "preferredVersion": v} for v in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        group_version = path.removeprefix("/apis/").removeprefix("/api/")
        if group_version not in ("v1", *groups) or path not in (f"/apis/{group_version}", f"/api/{group_version}"):
            return None
        resources = [
            {
                "name": each.plural,
                "singularName": each.kind.lower(),
                "namespaced": each.kind != "Namespace",
                "kind": each.kind,
                "verbs": ["create", "delete", "get", "list", "patch", "watch"],
            }
            for each in kinds
            if each.group_version == group_version
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}

    def _send(self, status: int, document: Object) -> None:
        self._send_bytes(status, json.dumps(document).encode(), "application/json")

    def _send_text(self, text: str) -> None:
        self._send_bytes(200, text.encode(), "text/plain")

    def _send_bytes(self, status: int, content: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _selector(query: dict[str, str]) -> Callable[[Object], bool]:
    """Return the test of the selectors of a list: `name=value` of labels, and of fields."""
    labels = [each.split("=", 1) for each in filter(None, query.get("labelSelector", "").split(","))]
    chosen = [each.split("=", 1) for each in filter(None, query.get("fieldSelector", "").split(","))]

    def selects(found: Object) -> bool:
        present = found["metadata"].get("labels", {})
        return all(present.get(name) == value for name, value in labels) and all(_at(found, n) == v for n, v in chosen)

    return selects


def _at(found: Any, name: str) -> Any:
    for part in name.split("."):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found
