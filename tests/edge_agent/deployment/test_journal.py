"""The journal stores every step and recovers from damage and full disks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.deployment.journal import JOURNAL_FILE, KEPT_EVENTS, Journal
from edge_agent.deployment.states import Event
from edgewright.contracts.messages import DeploymentState, FailureCause
from edgewright.errors import ConflictError, StorageFullError
from tests.edge_agent.deployment.test_plan import desired


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened, damage = Journal.open(tmp_path)
    assert damage is None
    yield opened
    opened.close()


def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert journal.current() is None
    assert journal.history(10) == ()


def test_steps_are_kept_when_the_journal_is_reopened(journal: Journal, tmp_path: Path) -> None:
    journal.accept(desired(5), "newer")
    journal.step(Event.FETCH, "fetching")
    journal.step(Event.RETRY, "the store is closed", attempt=2)
    journal.count(bytes_pulled=123, online_s=1.5)
    journal.note("waiting", datetime(2026, 1, 1, tzinfo=UTC))
    journal.close()
    reopened, _ = Journal.open(tmp_path)
    deployment = reopened.current()
    reopened.close()
    assert deployment is not None
    assert (deployment.desired, deployment.state, deployment.reason) == (desired(5), DeploymentState.FETCHING, "waiting")
    assert (deployment.attempt, deployment.transitions, deployment.bytes_pulled, deployment.online_s) == (2, 2, 123, 1.5)
    assert deployment.retry_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_step_ends_the_pause_and_keeps_the_choice(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    journal.step(Event.FETCH, "fetching")
    journal.note("waiting", datetime(2026, 1, 1, tzinfo=UTC))
    journal.step(Event.VERIFY, "verified", choice=("fp32 is chosen.",))
    staged = journal.step(Event.STAGE, "staged")
    assert (staged.retry_at, staged.choice) == (None, ("fp32 is chosen.",))


def test_a_step_outside_the_table_changes_nothing(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    with pytest.raises(ConflictError, match="no step 'commit' from accepted"):
        journal.step(Event.COMMIT, "no")
    current = journal.current()
    assert current is not None
    assert current.state is DeploymentState.ACCEPTED


def test_a_retry_in_the_same_state_keeps_its_start_time(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    fetching = journal.step(Event.FETCH, "fetching")
    assert journal.step(Event.RETRY, "again", attempt=2).since == fetching.since


def test_the_count_of_pulled_bytes_never_decreases(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    journal.count(bytes_pulled=100, online_s=0)
    assert journal.count(bytes_pulled=40, online_s=0).bytes_pulled == 100


def test_the_history_is_ordered_and_bounded(journal: Journal) -> None:
    for number in range(KEPT_EVENTS + 20):
        journal.record("reject_desired", str(number))
    kept = journal.history(5000)
    assert len(kept) == KEPT_EVENTS
    assert [kept[0].reason, kept[-1].reason] == ["20", str(KEPT_EVENTS + 19)]


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\x00" + b"\xff" * 5000], ids=["text", "torn"])
def test_a_damaged_journal_is_set_aside_and_replaced_by_an_empty_one(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(damage)
    journal, damage_text = Journal.open(tmp_path)
    assert damage_text is not None
    assert damage_text.startswith("the journal was damaged")
    assert journal.current() is None
    journal.close()
    assert (tmp_path / f"damaged-{JOURNAL_FILE}").read_bytes() == damage


def test_a_journal_with_an_invalid_row_is_damaged(journal: Journal, tmp_path: Path) -> None:
    journal.accept(desired(5), "newer")
    journal.close()
    with sqlite3.connect(tmp_path / JOURNAL_FILE) as connection:
        connection.execute("UPDATE deployments SET state = 'flying'")
    connection.close()
    reopened, damage_text = Journal.open(tmp_path)
    reopened.close()
    assert damage_text is not None


def test_a_full_disk_is_reported_and_changes_nothing(journal: Journal) -> None:
    journal.accept(desired(5), "newer")
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="not enough disk space to write the journal"):
        journal.record("note", "x" * 100_000)
    assert [past.event for past in journal.history(10)] == ["accept"]
    journal._connection.execute("PRAGMA max_page_count = 100000")
    assert journal.step(Event.FETCH, "there is space again").state is DeploymentState.FETCHING


def test_a_journal_without_causes_is_extended_and_keeps_its_deployment(journal: Journal, tmp_path: Path) -> None:
    journal.accept(desired(5), "newer")
    journal.close()
    with sqlite3.connect(tmp_path / JOURNAL_FILE) as old:
        old.execute("ALTER TABLE deployments DROP COLUMN cause")
    reopened, damage = Journal.open(tmp_path)
    assert damage is None
    reopened.step(Event.REFUSE, "unsigned", cause=FailureCause.TRUST)
    current = reopened.current()
    reopened.close()
    assert current is not None
    assert (current.desired.desired_number, current.cause) == (5, FailureCause.TRUST)
