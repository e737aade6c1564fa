"""The onnxruntime releases, the operator sets that they know, and the release in each consumer."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgewright.errors import BadInputError


class Consumer(enum.StrEnum):
    """The products that files are written for."""

    POWERBI = "powerbi"
    KUSTO = "kusto"
    SPARK = "spark"
    CSHARP = "csharp"
    JAVA = "java"
    DUCKDB = "duckdb"


@dataclass(frozen=True, slots=True)
class Release:
    """One release of onnxruntime: the newest operator sets and the newest IR version that it loads."""

    name: str
    opset: int
    ml_opset: int
    ir_version: int

    def __str__(self) -> str:
        sets = f"operator set {self.opset}, ai.onnx.ml {self.ml_opset} and IR version {self.ir_version}"
        return f"onnxruntime {self.name}, which knows {sets}"


RELEASES = (
    Release("1.13", 17, 3, 8),
    Release("1.14", 18, 3, 8),
    Release("1.15", 19, 3, 8),
    Release("1.16", 19, 3, 9),
    Release("1.17", 20, 4, 9),
    Release("1.18", 21, 4, 10),
    Release("1.19", 21, 4, 10),
    Release("1.20", 21, 4, 10),
)
"""From the table of ONNX Runtime's documentation (reference/compatibility); it ends at 1.20, and later releases know more."""


KUSTO_IMAGES = {"3.11.7": "1.17", "3.10.8": "1.13"}
"""The onnxruntime of Data Explorer's Python images, from its list of Python plugin packages: 1.17.3 and 1.13.1."""


def release(name: str) -> Release:
    """Return the release `MAJOR.MINOR[.PATCH]`; one newer than the table counts as the last of the table.

    Raises:
        BadInputError: it is not a release number, or older than the table.
    """
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        raise BadInputError(f"a release of onnxruntime must be MAJOR.MINOR or MAJOR.MINOR.PATCH, as in 1.17.3, not {name!r}")
    wanted = (int(parts[0]), int(parts[1]))
    fitting = [each for each in RELEASES if _number(each) <= wanted]
    if not fitting:
        raise BadInputError(f"onnxruntime must be {RELEASES[0].name} or newer, not {name}")
    return fitting[-1]


def oldest_for(opset: int, ml_opset: int, ir_version: int) -> Release | None:
    """Return the oldest release that loads a graph of these versions; None if it is newer than the table."""
    known = (each for each in RELEASES if each.opset >= opset and each.ml_opset >= ml_opset and each.ir_version >= ir_version)
    return next(known, None)


def _number(each: Release) -> tuple[int, int]:
    major, minor = each.name.split(".")
    return int(major), int(minor)
