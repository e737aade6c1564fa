"""The position of a copy: for each queue of each device, the number of the last measurement that the cluster has stored.

It is a file, replaced as a whole after each request that the cluster has answered. A stop between the answer and the new file
repeats that one request; a lost file repeats all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The two ends of a copy: a position of one pair means nothing for another."""

    cloud: str
    cluster: str
    database: str
    table: str


@dataclass(slots=True, kw_only=True)
class Position:
    """The numbers up to which the queues of the devices have been stored."""

    target: Target
    queues: dict[str, dict[str, int]] = field(default_factory=dict)
    """The last number by device and queue."""

    @classmethod
    def read(cls, path: Path, target: Target) -> Position:
        """Return the stored position, or that before all measurements if there is no file.

        Raises:
            BadInputError: the file is damaged, or belongs to another cloud, cluster or table.
        """
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return cls(target=target)
        except OSError as error:
            raise BadInputError(f"{path}: the position cannot be read: {error.strerror}") from error
        position = wire.decode(raw, Position, what=f"the position {path}", error=BadInputError)
        if position.target != target:
            stored = position.target
            raise BadInputError(
                f"{path} must be the position of this copy, but it is that of {stored.cloud} to {stored.cluster}, "
                f"{stored.database}.{stored.table}: name another file with --position"
            )
        return position

    def last(self, device: str, queue_id: str) -> int:
        """Return the last number of a queue; -1 before its first measurement."""
        return self.queues.get(device, {}).get(queue_id, -1)

    def advance(self, device: str, queue_id: str, sequence: int) -> None:
        """Record that a queue has been stored up to a number."""
        self.queues.setdefault(device, {})[queue_id] = sequence

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_atomically(path, json.dumps(wire.to_plain(self), indent=1).encode() + b"\n")
