"""The table of measurements in a Kusto database, and the view that counts each measurement once.

A measurement is identified by its device, its queue and its number in that queue. Streaming ingestion cannot tag data, so a
request that is repeated after a lost answer stores its rows twice. The materialized view keeps one row per measurement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgewright.contracts.messages import StoredMeasurement
from edgewright.contracts.wire import to_plain
from edgewright.errors import BadInputError

DEFAULT_TABLE = "Telemetry"
MAPPING = "edgewright"
"""Name of the JSON mapping: streaming ingestion takes a mapping that was created before."""

_COLUMNS = {
    "device": "string",
    "queue_id": "string",
    "sequence": "long",
    "at": "datetime",
    "name": "string",
    "value": "real",
    "unit": "string",
    "labels": "dynamic",
}
_IDENTITY = ("device", "queue_id", "sequence")
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DATABASE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,259}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a database.

    Raises:
        BadInputError: a name that is not accepted here.
    """

    database: str
    name: str = DEFAULT_TABLE

    def __post_init__(self) -> None:
        if not _DATABASE_NAME.fullmatch(self.database):
            raise BadInputError(
                f"the name of a database must have 1 to 260 letters, digits and '_', '.', '-' or spaces, not {self.database!r}"
            )
        if not _TABLE_NAME.fullmatch(self.name):
            raise BadInputError(
                "the name of a table must begin with a letter or '_' and have at most 128 letters, digits and '_', "
                f"not {self.name!r}"
            )

    @property
    def view(self) -> str:
        """The name of the view with each measurement once."""
        return f"{self.name}Once"


def creation_commands(table: Table) -> tuple[str, ...]:
    """Return the management commands that create what is missing; they change nothing that exists.

    Sources: "Configure streaming ingestion" and "Materialized views use cases" (deduplication), Azure Data Explorer.
    """
    columns = ", ".join(f"{name}:{kind}" for name, kind in _COLUMNS.items())
    mapping = json.dumps([{"column": name, "Properties": {"Path": f"$.{name}"}} for name in _COLUMNS])
    return (
        f".create-merge table {table.name} ({columns})",
        f".create-or-alter table {table.name} ingestion json mapping '{MAPPING}' '{mapping}'",
        f".alter table {table.name} policy streamingingestion enable",
        f".create ifnotexists materialized-view {table.view} on table {table.name} "
        f"{{ {table.name} | summarize take_any(*) by {', '.join(_IDENTITY)} }}",
    )


def json_lines(measurements: Sequence[StoredMeasurement]) -> list[bytes]:
    """Return each measurement as one line of JSON, whose fields are the columns of the table."""
    return [json.dumps({name: to_plain(getattr(each, name)) for name in _COLUMNS}).encode() + b"\n" for each in measurements]
