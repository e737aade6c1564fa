"""Telemetry waits on disk, numbers have no gaps, and every loss is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.telemetry.outbox import BATCH_SIZE, OUTBOX_FILE, Drop, Outbox, Reading
from edgewright.contracts.messages import TelemetryAck
from edgewright.errors import StorageFullError


def readings(count: int, start: int = 0) -> list[Reading]:
    return [Reading(name="latency", value=float(start + n), unit="ms", labels={"model": "digits"}) for n in range(count)]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path, "cam-1", quota_bytes=1 << 20)
    yield opened
    opened.close()


def test_an_empty_queue_has_no_batch(outbox: Outbox) -> None:
    assert outbox.batch() is None


def test_measurements_are_returned_in_order_with_numbers_from_one(outbox: Outbox) -> None:
    outbox.put(readings(3))
    batch = outbox.batch()
    assert batch is not None
    assert [(m.sequence, m.value, m.unit, m.labels) for m in batch.measurements] == [
        (1, 0.0, "ms", {"model": "digits"}),
        (2, 1.0, "ms", {"model": "digits"}),
        (3, 2.0, "ms", {"model": "digits"}),
    ]
    assert (batch.device, batch.queue_id) == ("cam-1", outbox.queue_id)


def test_a_batch_is_bounded_and_stays_until_it_is_acknowledged(outbox: Outbox) -> None:
    outbox.put(readings(BATCH_SIZE + 5))
    first = outbox.batch()
    assert first is not None
    assert len(first.measurements) == BATCH_SIZE
    assert outbox.batch() == first
    assert outbox.acknowledge(TelemetryAck(queue_id=outbox.queue_id, sequence=BATCH_SIZE)) == BATCH_SIZE
    rest = outbox.batch()
    assert rest is not None
    assert [m.sequence for m in rest.measurements] == list(range(BATCH_SIZE + 1, BATCH_SIZE + 6))


def test_numbers_continue_after_all_were_acknowledged_and_the_agent_restarted(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(readings(4))
    outbox.acknowledge(TelemetryAck(queue_id=outbox.queue_id, sequence=4))
    outbox.close()
    reopened = Outbox.open(tmp_path, "cam-1", quota_bytes=1 << 20)
    reopened.put(readings(1))
    batch = reopened.batch()
    reopened.close()
    assert batch is not None
    assert (batch.queue_id, batch.measurements[0].sequence) == (outbox.queue_id, 5)


def test_an_acknowledgement_of_another_queue_is_ignored(outbox: Outbox) -> None:
    outbox.put(readings(2))
    assert outbox.acknowledge(TelemetryAck(queue_id="another", sequence=2)) == 0
    assert outbox.waiting() == 2


def test_above_the_quota_the_oldest_are_dropped_and_the_ledger_counts_them_exactly(tmp_path: Path) -> None:
    outbox = Outbox.open(tmp_path, "cam-1", quota_bytes=5000)
    for start in range(0, 200, 10):
        outbox.put(readings(10, start))
    batch = outbox.batch()
    outbox.close()
    assert batch is not None
    kept = [m.sequence for m in batch.measurements]
    assert kept == list(range(kept[0], 201))
    reopened = Outbox.open(tmp_path, "cam-1", quota_bytes=5000)
    assert reopened.ledger() == (Drop(from_sequence=1, to_sequence=kept[0] - 1, count=kept[0] - 1, reason="quota"),)
    assert reopened.dropped() + reopened.waiting() == 200
    reopened.close()


def test_a_damaged_queue_is_set_aside_and_the_new_one_has_another_id(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(readings(1))
    outbox.close()
    for name in (f"{OUTBOX_FILE}-wal", f"{OUTBOX_FILE}-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / OUTBOX_FILE).write_bytes(b"torn" * 2000)
    reopened = Outbox.open(tmp_path, "cam-1", quota_bytes=1 << 20)
    assert reopened.queue_id != outbox.queue_id
    assert reopened.waiting() == 0
    reopened.close()
    assert (tmp_path / f"damaged-{OUTBOX_FILE}").exists()


def test_a_full_disk_loses_only_new_measurements_and_the_numbers_have_no_gap(outbox: Outbox) -> None:
    outbox.put(readings(1))
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    outbox._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="not enough disk space to write the telemetry queue"):
        outbox.put(readings(2000))
    outbox._connection.execute("PRAGMA max_page_count = 100000")
    outbox.put(readings(1))
    batch = outbox.batch()
    assert batch is not None
    assert [m.sequence for m in batch.measurements] == [1, 2]
