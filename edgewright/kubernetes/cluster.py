"""A cluster: the API server that a context of a kubeconfig names, and the requests that endpoints need.

The official client sends them, so credentials, exec plugins and certificates of a kubeconfig work as in kubectl. Each failure is
raised as an error of ours with the words of the API server. The client is imported late: the import takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    UnreachableError,
    one_line,
)

FIELD_MANAGER = "edgewright"
"""Name of this project in the managed fields of an object."""
KUBECONFIG = "EDGEWRIGHT_KUBECONFIG"
"""Variable with the kubeconfig; else `KUBECONFIG`, else `~/.kube/config`."""
_CONNECT_S, _READ_S = 10.0, 60.0

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """A field that another manager set to another value."""

    object: str
    """Kind and name."""
    field: str
    """Path, as in `.spec.replicas`."""
    manager: str

    def __str__(self) -> str:
        return f"{self.object} {self.field} ({self.manager})"


class FieldConflictError(ConflictError):
    """Fields that other managers set to other values."""

    def __init__(self, conflicts: tuple[FieldConflict, ...]) -> None:
        super().__init__(
            "fields of the objects must have no other manager, but these have: "
            + ", ".join(map(str, conflicts))
            + "; change them there, or take them over with --force-conflicts"
        )
        self.conflicts = conflicts


class Cluster:
    """A connection to the API server of a context.

    Attributes:
        context: name of the context.
        namespace: namespace of the requests.
    """

    def __init__(self, client: Any, *, context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace
        self._client = client
        self._dynamic: Any = None
        self._absent: set[tuple[str, str]] = set()

    @classmethod
    def connect(cls, context: str = "", namespace: str = "") -> Cluster:
        """Return the cluster of a context; no request is sent.

        Args:
            context: name of a context; empty: the current one of the kubeconfig.
            namespace: empty: that of the context, else `default`.

        Raises:
            BadInputError: the official client is not installed, or there is no such file or context.
        """
        try:
            from kubernetes import client as official
            from kubernetes import config
        except ImportError as error:
            raise BadInputError(
                "a cluster needs the official client of Kubernetes: pip install 'edgewright[kubernetes]'"
            ) from error
        path = kubeconfig()
        try:
            contexts, current = config.list_kube_config_contexts(config_file=path)
            names = [each["name"] for each in contexts]
            if context and context not in names:
                raise BadInputError(f"{path} must have the context {context!r}, but it has {', '.join(names)}: give --context")
            chosen = next(each for each in contexts if each["name"] == (context or current["name"]))
            settings = official.Configuration()
            settings.retries = 0  # a server that is away is reported at once
            client = config.new_client_from_config(config_file=path, context=chosen["name"], client_configuration=settings)
        except (config.ConfigException, OSError, StopIteration, KeyError, TypeError) as error:
            raise BadInputError(
                f"{path} must be a kubeconfig with the context {context or 'in use'}: {one_line(error)}; set {KUBECONFIG}"
            ) from error
        return cls(client, context=chosen["name"], namespace=namespace or chosen["context"].get("namespace") or "default")

    @property
    def address(self) -> str:
        """Address of the API server."""
        address: str = self._client.configuration.host
        return address

    def get(self, api_version: str, kind: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        try:
            with self._errors():
                return self._resource(api_version, kind).get(name=name, namespace=self.namespace, **_TIMES).to_dict()  # type: ignore[no-any-return]
        except NotFoundError:
            return None

    def find(self, api_version: str, kind: str, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        """Return the objects of a kind with all of these labels; none if the cluster does not have the kind."""
        with self._errors():
            resource = self._resource(api_version, kind, is_optional=True)
            if resource is None:
                return []
            found = resource.get(
                namespace=self.namespace, label_selector=_selector(labels), field_selector=fields or None, **_TIMES
            )
        items: list[Object] = found.to_dict().get("items") or []
        return [{"apiVersion": api_version, "kind": kind, **each} for each in items]

    def apply(self, document: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        """Apply an object on the server; return the object that the server has then.

        Raises:
            FieldConflictError: other managers set fields to other values, and `force` is False.
            BadInputError: the server refuses the object, or does not have its kind.
        """
        with self._errors(document):
            applied = self._resource(document["apiVersion"], document["kind"]).server_side_apply(
                body=document,
                name=document["metadata"]["name"],
                namespace=self.namespace,
                field_manager=FIELD_MANAGER,
                force_conflicts=force,
                **({"dry_run": "All"} if dry_run else {}),
                **_TIMES,
            )
        result: Object = applied.to_dict()
        return result

    def delete(self, document: Object) -> None:
        """Delete an object that was read; one that is gone, or was created again since, stays as it is."""
        options = {"preconditions": {"uid": document["metadata"]["uid"]}, "propagationPolicy": "Background"}
        with contextlib.suppress(NotFoundError), self._errors(document):
            self._resource(document["apiVersion"], document["kind"]).delete(
                name=document["metadata"]["name"], namespace=self.namespace, body=options, **_TIMES
            )

    def log(self, pod: str, *, lines: int, previous: bool = False) -> str:
        """Return the last lines of a pod's output; empty if its container has not started."""
        from kubernetes.client import ApiException, CoreV1Api

        try:
            with self._errors():
                answer = CoreV1Api(self._client).read_namespaced_pod_log(
                    pod, self.namespace, tail_lines=lines, previous=previous, _preload_content=False, _request_timeout=_BOTH
                )
                if answer.status >= 300:
                    raise ApiException(status=answer.status, reason=answer.reason)
                return str(answer.data.decode("utf-8", "replace"))
        except (NotFoundError, BadInputError, OperationError):  # as kubectl: the container waits, or there is no one before it
            return ""

    def wait_for_change(self, api_version: str, kind: str, labels: Mapping[str, str], *, since: str, timeout_s: int) -> None:
        """Return at the next change of objects of a kind, or after a time."""
        from kubernetes.watch import Watch

        watcher = Watch()
        with self._errors():
            for _ in self._resource(api_version, kind).watch(
                namespace=self.namespace,
                label_selector=_selector(labels),
                resource_version=since,
                timeout=timeout_s,
                watcher=watcher,
            ):
                watcher.stop()

    def version_of_list(self, api_version: str, kind: str, labels: Mapping[str, str]) -> str:
        """Return the version of the objects of a kind after which `wait_for_change` reports changes."""
        with self._errors():
            found = self._resource(api_version, kind).get(namespace=self.namespace, label_selector=_selector(labels), **_TIMES)
        return str(found.metadata.resourceVersion or "0")

    def _resource(self, api_version: str, kind: str, *, is_optional: bool = False) -> Any:
        from kubernetes.dynamic import DynamicClient
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        if self._dynamic is None:
            # The client keeps what the server has in a file; a folder of its own keeps others from writing it.
            with tempfile.TemporaryDirectory() as folder:
                self._dynamic = DynamicClient(self._client, cache_file=str(Path(folder) / "discovery.json"))
        try:
            if (api_version, kind) not in self._absent:  # the client would discover all kinds again
                return self._dynamic.resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError:
            self._absent.add((api_version, kind))
        if is_optional:
            return None
        raise BadInputError(
            f"the cluster of the context {self.context} must have the kind {kind} ({api_version}), but it has none: "
            "install what provides it, or render without it"
        )

    @contextlib.contextmanager
    def _errors(self, document: Object | None = None) -> Iterator[None]:
        from kubernetes.client import ApiException
        from kubernetes.dynamic.exceptions import DynamicApiError

        try:
            yield
        except (ApiException, DynamicApiError) as error:
            raise self._error(error, document) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(
                f"the API server of the context {self.context} must answer at {self.address}: {one_line(error)}; "
                "start it, or choose another --context"
            ) from error

    def _error(self, error: Any, document: Object | None) -> EdgewrightError:
        status = _status(error)
        message = " ".join(str(status.get("message") or error.reason or "no message").split())
        what = "" if document is None else f"{document['kind']} {document['metadata']['name']}: "
        causes = (status.get("details") or {}).get("causes") or []
        conflicts = tuple(
            FieldConflict(what.removesuffix(": "), each.get("field", ""), _manager(each.get("message", "")))
            for each in causes
            if each.get("reason") == "FieldManagerConflict"
        )
        if conflicts:
            return FieldConflictError(conflicts)
        kinds: dict[int, type[EdgewrightError]] = {
            401: DeniedError,
            403: DeniedError,
            404: NotFoundError,
            409: ConflictError,
            400: BadInputError,
            422: BadInputError,
        }
        kind = kinds.get(error.status, OperationError)
        return kind(f"{what}the API server of the context {self.context} answers {error.status}: {message}")


_BOTH = (_CONNECT_S, _READ_S)
_TIMES: dict[str, Any] = {"_request_timeout": _BOTH}


def kubeconfig() -> str:
    """Return the path of the kubeconfig; several are separated by ':'."""
    return os.environ.get(KUBECONFIG) or os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def _selector(labels: Mapping[str, str] | None) -> str | None:
    return ",".join(f"{name}={value}" for name, value in labels.items()) if labels else None


def _status(error: Any) -> Object:
    """Return the Status document in an answer, or an empty one."""
    try:
        document = json.loads(error.body or "{}")
    except (ValueError, TypeError):
        return {}
    return document if isinstance(document, dict) else {}


def _manager(message: str) -> str:
    """Return the manager in a cause, as in `conflict with "kubectl" using apps/v1`."""
    quoted = message.split('"')
    return quoted[1] if len(quoted) > 2 else message
