"""Telemetry of a script, with the verbs of Application Insights' client: metrics, events, traces and exceptions.

In a service, each item is a line of the service's log, where the cloud finds it (`edgewright endpoints telemetry`). In a run, it
is a line of `.edgewright/runs/ID/telemetry.jsonl`; elsewhere, of `.edgewright/telemetry.jsonl`. Nothing is sent to another host.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from edgewright.sdk.embedded import ENTRY_SCRIPT, FOLDER
from edgewright.sdk.workspace.runs import RUN_ID

TELEMETRY_FILE = "telemetry.jsonl"


class TelemetryClient:
    """A source of telemetry; items are stored by `flush`, and at 500 items without one."""

    def __init__(self, instrumentation_key: str = "", telemetry_channel: object = None) -> None:
        """Begin without items. The key of an Application Insights resource is kept as a label and not used to send anything."""
        self.instrumentation_key = instrumentation_key
        self._items: list[dict[str, Any]] = []

    def track_metric(
        self,
        name: str,
        value: float,
        type: object = None,
        count: int | None = None,
        min: float | None = None,
        max: float | None = None,
        std_dev: float | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a measurement, or the summary of several."""
        summary = {"count": count, "min": min, "max": max, "std_dev": std_dev}
        known = {key: float(number) for key, number in summary.items() if number is not None}
        self._add("metric", name=name, value=float(value), **known, properties=properties)

    def track_event(
        self, name: str, properties: Mapping[str, Any] | None = None, measurements: Mapping[str, float] | None = None
    ) -> None:
        """Record an event."""
        self._add("event", name=name, properties=properties, measurements=measurements)

    def track_trace(self, name: str, properties: Mapping[str, Any] | None = None, severity: str | None = None) -> None:
        """Record a line of text."""
        self._add("trace", text=name, severity=severity, properties=properties)

    def track_exception(
        self,
        type: type[BaseException] | None = None,
        value: BaseException | None = None,
        tb: TracebackType | None = None,
        properties: Mapping[str, Any] | None = None,
        measurements: Mapping[str, float] | None = None,
    ) -> None:
        """Record an exception with its traceback; without arguments, the one that is being handled."""
        error = value if value is not None else sys.exc_info()[1]
        lines = traceback.format_exception(type, error, tb) if tb else traceback.format_exception(error)
        self._add("exception", text="".join(lines), properties=properties, measurements=measurements)

    def flush(self) -> None:
        """Store the items."""
        lines = [json.dumps(item, default=str) for item in self._items]
        self._items.clear()
        if not lines:
            return
        if os.environ.get(ENTRY_SCRIPT):
            for line in lines:
                print(f"telemetry {line}", file=sys.stderr, flush=True)  # noqa: T201  the service's log
            return
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))

    def _add(self, kind: str, **fields: Any) -> None:
        item = {"at": datetime.now(UTC).isoformat(), "kind": kind}
        self._items.append(item | {name: field for name, field in fields.items() if field is not None})
        if len(self._items) >= 500:
            self.flush()


def stored_telemetry(folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the stored items of the run of this process, or of `folder`, a folder with a telemetry file; oldest first."""
    file = _file() if folder is None else folder / TELEMETRY_FILE
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def _file() -> Path:
    run_id = os.environ.get(RUN_ID)
    return Path(FOLDER) / (f"runs/{run_id}" if run_id else ".") / TELEMETRY_FILE
