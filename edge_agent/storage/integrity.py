"""Compare a slot with its record, byte for byte: a power cut, a worn-out disk or an accident may have changed a file.

A slot is verified before a runner loads it and before its golden samples are scored, so that damage of the device is never
taken for a fault of the package. The cost is one SHA-256 of every file, at some hundred MB/s even on a small device.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.storage.store import SLOT_FILE, SlotFile, SlotRecord
from edgewright.contracts import wire
from edgewright.contracts.oci import describe_file
from edgewright.errors import OperationError, PackageError

DAMAGED_EXIT = 65
"""Exit code of a runner whose slot is damaged (EX_DATAERR of sysexits.h)."""


class DamagedSlotError(OperationError):
    """A slot whose files differ from its record; the package may be right."""


def slot_damage(slot: Path) -> str | None:
    """Return the damage of a slot in a few words, or None if every byte is as recorded."""
    try:
        record = wire.decode((slot / SLOT_FILE).read_bytes(), SlotRecord, what=SLOT_FILE, error=PackageError)
    except OSError:
        return f"{SLOT_FILE} is missing"
    except PackageError:
        return f"{SLOT_FILE} is damaged"
    return next((damage for file in record.files if (damage := _file_damage(slot / file.name, file)) is not None), None)


def _file_damage(path: Path, file: SlotFile) -> str | None:
    try:
        actual = describe_file(path, "")
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    if actual.size != file.size:
        return f"{file.name} has {actual.size} bytes instead of {file.size}"
    return None if actual.digest == file.digest else f"{file.name} has other bytes than the package"
