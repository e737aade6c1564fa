"""The journal keeps what happened, and survives what disks do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.deployment.journal import JOURNAL_FILE, KEPT_EVENTS, Journal
from edge_agent.deployment.states import Event
from edgewright.contracts.messages import DeploymentState
from edgewright.errors import ConflictError, StorageFullError
from tests.edge_agent.deployment.test_plan import desired


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened, damage = Journal.open(tmp_path)
    assert damage is None
    yield opened
    opened.close()


def test_a_journal_begins_empty(journal: Journal) -> None:
    assert journal.current() is None
    assert journal.history(10) == ()


def test_steps_are_there_after_opening_again(journal: Journal, tmp_path: Path) -> None:
    journal.accept(desired(5), "newer")
    journal.step(Event.FETCH, "fetching")
    journal.step(Event.RETRY, "the store is closed", attempt=2)
    journal.count(bytes_pulled=123, online_s=1.5)
    journal.note("waiting", datetime(2026, 1, 1, tzinfo=UTC))
    journal.close()
    again, _ = Journal.open(tmp_path)
    found = again.current()
    again.close()
    assert found is not None
    assert (found.desired, found.state, found.reason) == (desired(5), DeploymentState.FETCHING, "waiting")
    assert (found.attempt, found.transitions, found.bytes_pulled, found.online_s) == (2, 2, 123, 1.5)
    assert found.retry_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_step_ends_the_pause_and_keeps_the_choice(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    journal.step(Event.FETCH, "fetching")
    journal.note("waiting", datetime(2026, 1, 1, tzinfo=UTC))
    journal.step(Event.VERIFY, "verified", choice=("fp32 is chosen.",))
    staged = journal.step(Event.STAGE, "staged")
    assert (staged.retry_at, staged.choice) == (None, ("fp32 is chosen.",))


def test_a_step_that_the_table_lacks_changes_nothing(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    with pytest.raises(ConflictError, match="no step 'commit' from accepted"):
        journal.step(Event.COMMIT, "no")
    current = journal.current()
    assert current is not None
    assert current.state is DeploymentState.ACCEPTED


def test_retrying_in_one_state_does_not_move_since_when(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    fetching = journal.step(Event.FETCH, "fetching")
    assert journal.step(Event.RETRY, "again", attempt=2).since == fetching.since


def test_bytes_pulled_never_fall(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    journal.count(bytes_pulled=100, online_s=0)
    assert journal.count(bytes_pulled=40, online_s=0).bytes_pulled == 100


def test_the_history_is_kept_in_order_and_bounded(journal: Journal) -> None:
    for number in range(KEPT_EVENTS + 20):
        journal.remember("refuse_wish", str(number))
    kept = journal.history(5000)
    assert len(kept) == KEPT_EVENTS
    assert [kept[0].reason, kept[-1].reason] == ["20", str(KEPT_EVENTS + 19)]


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\x00" + b"\xff" * 5000], ids=["text", "torn"])
def test_a_damaged_journal_is_set_aside_and_begun_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(damage)
    journal, said = Journal.open(tmp_path)
    assert said is not None
    assert said.startswith("the journal was damaged")
    assert journal.current() is None
    journal.close()
    assert (tmp_path / f"damaged-{JOURNAL_FILE}").read_bytes() == damage


def test_a_journal_with_a_row_that_makes_no_sense_is_damaged(journal: Journal, tmp_path: Path) -> None:
    journal.accept(desired(5), "newer")
    journal.close()
    with sqlite3.connect(tmp_path / JOURNAL_FILE) as connection:
        connection.execute("UPDATE deployments SET state = 'flying'")
    connection.close()
    again, said = Journal.open(tmp_path)
    again.close()
    assert said is not None


def test_a_full_disk_is_told_and_changes_nothing(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="no room left to write the journal"):
        journal.remember("note", "x" * 100_000)
    assert [past.event for past in journal.history(10)] == ["accept"]
    journal._connection.execute("PRAGMA max_page_count = 100000")
    assert journal.step(Event.FETCH, "there is room again").state is DeploymentState.FETCHING
