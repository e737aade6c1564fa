"""Methods of `CloudClient` for scoring endpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from edgewright.contracts import wire
from edgewright.contracts.endpoints import (
    FILES_REPOSITORY,
    DeployRequest,
    EndpointKeys,
    EndpointLog,
    EndpointRecord,
    EndpointState,
    EndpointTelemetry,
    EndpointToken,
    EndpointTokenRequest,
    KeyName,
    RegenerateRequest,
    TelemetryItem,
    UpdateRequest,
    check_endpoint_name,
)
from edgewright.contracts.messages import ChangeNumber
from edgewright.contracts.models.registration import SourceFile
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.sdk.calls import Calls
from edgewright.sdk.connection import TIMEOUT_S
from edgewright.sdk.transfer.files import files_of_source, push_files
from edgewright.sdk.transfer.uploads import Progress

_POLL_S = 25.0


class EndpointCalls(Calls):
    """Deploy, watch, change and delete endpoints."""

    def push_script(
        self, script: Path, source: Path | None = None, *, on_progress: Progress = lambda _sent, _total: None
    ) -> tuple[str, tuple[SourceFile, ...]]:
        """Send an entry script, or the folder `source` that holds it without hidden files; what the cloud has is not sent.

        Returns:
            The path of the script in the folder and the files, as fields `entry_script` and `files` of a `Deployment`.

        Raises:
            NotFoundError: there is no such script or folder.
            BadInputError: the script is not below the folder.
        """
        if source is None:
            if not script.is_file():
                raise NotFoundError(f"{script}: no such file; an entry script is a Python file with init() and run()")
            name, found = script.name, [(script.name, script)]
        else:
            name, found = _path_below(script, source), files_of_source(source)
        return name, push_files(self._connection, FILES_REPOSITORY, found, on_progress)

    def deploy_endpoint(self, name: str, request: DeployRequest) -> EndpointRecord:
        """Create an endpoint, or with `overwrite` replace the deployment of an existing one; the cloud starts it."""
        check_endpoint_name(name)
        return self._send("PUT", _path(name), EndpointRecord, request)

    def endpoints(self) -> tuple[EndpointRecord, ...]:
        """Return every endpoint, by name."""
        return self._get("/v1/endpoints", tuple[EndpointRecord, ...])

    def endpoint(self, name: str) -> EndpointRecord:
        """Return one endpoint; raise `NotFoundError` with the nearest names."""
        return self._get(_path(name), EndpointRecord)

    def update_endpoint(self, name: str, request: UpdateRequest) -> EndpointRecord:
        """Change an endpoint; a new deployment answers when it is ready, and until then the present one does."""
        return self._send("PATCH", _path(name), EndpointRecord, request)

    def delete_endpoint(self, name: str, *, timeout_s: float = 90.0) -> None:
        """Delete an endpoint; return when its processes and files are removed.

        Raises:
            OperationError: it still exists after `timeout_s`.
        """
        self._send("DELETE", _path(name), EndpointRecord)
        try:
            for _ in self._records(name, timeout_s):
                pass
        except NotFoundError:
            return
        raise OperationError(f"endpoint {name} must be removed within {timeout_s:g} s, but it still drains its requests")

    def endpoint_keys(self, name: str) -> EndpointKeys:
        """Return the keys of an endpoint."""
        return self._get(f"{_path(name)}/keys", EndpointKeys)

    def regenerate_key(self, name: str, key: KeyName, value: str = "") -> EndpointKeys:
        """Replace one key by `value`, or by a random one; the other key stays valid."""
        return self._send("POST", f"{_path(name)}/keys", EndpointKeys, RegenerateRequest(name=key, key=value))

    def endpoint_token(self, name: str, *, valid_s: float = 3600.0) -> EndpointToken:
        """Return a token that an endpoint accepts in place of a key until it expires."""
        return self._send("POST", f"{_path(name)}/token", EndpointToken, EndpointTokenRequest(valid_s=valid_s))

    def endpoint_logs(self, name: str, *, lines: int = 5000) -> tuple[str, ...]:
        """Return the last lines of an endpoint's log."""
        return self._get(f"{_path(name)}/logs", EndpointLog, lines=lines).lines

    def endpoint_telemetry(
        self, name: str, *, metric: str | None = None, kind: str | None = None, limit: int = 1000
    ) -> tuple[TelemetryItem, ...]:
        """Return the newest `limit` items that an endpoint's script recorded, oldest first; `metric` is the name of an item."""
        return self._get(f"{_path(name)}/telemetry", EndpointTelemetry, name=metric, kind=kind, limit=limit).items

    def watch_endpoint(self, name: str, *, timeout_s: float) -> Iterator[EndpointRecord]:
        """Yield an endpoint now and after each change until its deployment has started or failed, by long-poll requests.

        Raises:
            OperationError: neither happened within `timeout_s`.
        """
        reason = ""
        for record in self._records(name, timeout_s):
            yield record
            if record.state is not EndpointState.TRANSITIONING:
                return
            reason = record.reason and f" ({record.reason})"
        raise OperationError(
            f"endpoint {name} must be ready within {timeout_s:g} s, but it is not{reason}: 'edgewright endpoints logs {name}'"
        )

    def wait_for_endpoint(self, name: str, *, timeout_s: float | None = None) -> EndpointRecord:
        """Return an endpoint when its deployment is ready; `timeout_s` defaults to the time that the cloud gives it.

        Raises:
            OperationError: the deployment failed, or it is not ready in time; the message has the reason.
        """
        limit_s = timeout_s or self.endpoint(name).deployment.init_timeout_s + 90
        *_, record = self.watch_endpoint(name, timeout_s=limit_s)
        if record.state is EndpointState.FAILED:
            raise OperationError(f"endpoint {name} failed to start: {record.reason}; its log: 'edgewright endpoints logs {name}'")
        return record

    def _records(self, name: str, timeout_s: float) -> Iterator[EndpointRecord]:
        """Yield an endpoint now and after each change, until `timeout_s` is over."""
        ends_at, seen, last = time.monotonic() + timeout_s, self._changes(0, 0), None
        while True:
            record = self.endpoint(name)
            if record != last:
                yield record
            last = record
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return
            seen = self._changes(seen, min(_POLL_S, left_s))

    def _changes(self, after: int, wait_s: float) -> int:
        response = self._connection.request(
            "GET", "/v1/changes", query={"after": after, "wait_s": wait_s}, timeout_s=TIMEOUT_S + wait_s
        )
        return wire.decode(response.body, ChangeNumber, what="the number of changes", error=OperationError).number


def _path_below(script: Path, source: Path) -> str:
    inside = script if script.is_absolute() or script.is_file() else source / script
    if not inside.is_file():
        raise NotFoundError(f"{inside}: no such file; an entry script is a Python file with init() and run()")
    try:
        return inside.resolve().relative_to(source.resolve()).as_posix()
    except ValueError as error:
        raise BadInputError(f"the entry script must be in the folder {source}, but {script} is not") from error


def _path(name: str) -> str:
    return f"/v1/endpoints/{quote(name, safe='')}"
