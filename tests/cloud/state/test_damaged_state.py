"""A cloud refuses to start with a file that is empty, missing, truncated or of another cloud (protocol.md P1).

The table is every file that the state directory depends on times every damage. Nothing is created again beside other state.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.auth import NoCredentialError, identify
from cloud.db.database import Database
from cloud.service import Settings, Started, run
from cloud.state.directory import StateDirectory, prepare
from cloud.state.stored_files import AFTER_DATABASE, IN_ORDER
from edgewright.contracts import signing
from edgewright.errors import BadInputError
from tests.support.running_cloud import running

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FILES = tuple(name for name in IN_ORDER if name not in AFTER_DATABASE)
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda path, _other: path.write_bytes(b""),
    "blank": lambda path, _other: path.write_bytes(b"\n \n"),
    "missing": lambda path, _other: path.unlink(),
    "truncated": lambda path, _other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "truncated at the end": lambda path, _other: path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10]),
    "binary": lambda path, _other: path.write_bytes(bytes(range(256)) * 8),
    "foreign": lambda path, other: shutil.copy(other / path.name, path),
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The state directories of two clouds that have run."""
    folder = tmp_path_factory.mktemp("states")
    for name in ("own", "other"):
        start(folder / name)
    return folder / "own", folder / "other"


@pytest.fixture
def state(states: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of a state directory, to be damaged."""
    return Path(shutil.copytree(states[0], tmp_path / "state"))


class StartedError(Exception):
    """The cloud is ready."""


def start(state: Path, **settings: object) -> None:
    """Start a cloud in this process, and end it when it is ready; raises what it raises when it refuses."""

    def announce(_started: Started) -> None:
        raise StartedError

    with pytest.raises(StartedError):
        run(Settings(state=state, port=0, with_broker=False, **settings), announce)  # type: ignore[arg-type]


def snapshot(state: Path) -> dict[str, bytes]:
    return {name: (state / name).read_bytes() for name in FILES if (state / name).is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_p1_a_damaged_file_is_refused_in_one_line_and_nothing_is_created_again(
    state: Path, states: tuple[Path, Path], name: str, damage: str
) -> None:
    DAMAGES[damage](state / name, states[1])
    before = snapshot(state)
    with pytest.raises(BadInputError) as refused:
        start(state)
    assert "\n" not in str(refused.value)
    assert str(state) in str(refused.value)
    assert "backup" in str(refused.value)
    assert snapshot(state) == before


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("ca.pem", "ca.key"), id="authority"),
        pytest.param(("server.pem", "server.key"), id="server"),
        pytest.param(("mqtt.pem", "mqtt.key"), id="mqtt"),
        pytest.param(("ca.pem", "ca.key", "server.pem", "server.key", "mqtt.pem", "mqtt.key"), id="all certificates"),
        pytest.param(tuple(name for name in FILES if name != "cloud.db"), id="all but the database"),
    ],
)
def test_p1_files_of_another_cloud_that_fit_each_other_are_refused(
    state: Path, states: tuple[Path, Path], names: tuple[str, ...]
) -> None:
    for name in names:
        shutil.copy(states[1] / name, state / name)
    with pytest.raises(BadInputError, match="from (a|one) backup"):
        start(state)


@pytest.mark.parametrize("count", range(len(FILES) + 1))
def test_p1_an_interrupted_first_start_is_completed_by_the_next(state: Path, count: int) -> None:
    for name in (*FILES[count:], "client.json"):
        (state / name).unlink()
    shutil.rmtree(state / "registry")
    kept = snapshot(state)
    if count == 1:
        del kept["ca.key"]  # without its certificate, the key of an authority is created again
    start(state)
    assert {name: content for name, content in snapshot(state).items() if name in kept and name != "cloud.db"} == {
        name: content for name, content in kept.items() if name != "cloud.db"
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_new_token_replaces_a_lost_or_damaged_operator_token(state: Path, states: tuple[Path, Path], damage: str) -> None:
    before = (state / "operator.token").read_bytes()
    DAMAGES[damage](state / "operator.token", states[1])
    start(state, new_token=True)
    assert (state / "operator.token").read_bytes() not in (before, (states[1] / "operator.token").read_bytes())
    start(state)


def test_a_state_directory_from_before_identities_were_stored_is_accepted(state: Path) -> None:
    database = Database.open(f"sqlite:///{state / 'cloud.db'}")
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE identity")
        later_tables = ("model_aliases", "environments", "endpoints", "images", "benchmarks")
        newest = ("pipelines", "pipeline_jobs", "schedules")
        for table in (*later_tables, "benchmark_job_devices", "benchmark_jobs", *newest):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        later = {"devices": ("boot_ids", "identity_shared_at"), "model_versions": ("deleted",), "rollouts": ("workload",)}
        for table, column in ((table, column) for table, columns in later.items() for column in columns):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")
    database.close()
    start(state)
    (state / "cloud.key").write_bytes(signing.private_pem(signing.generate_key()))
    with pytest.raises(BadInputError, match="cloud.key must be the file that this cloud created, but it is another one"):
        start(state)


@pytest.mark.parametrize("content", [pytest.param(b"", id="empty"), pytest.param(b"\xff\x00", id="binary")])
def test_a_damaged_publisher_key_is_refused(state: Path, content: bytes) -> None:
    (state / "trusted" / "some.pub").write_bytes(content)
    with pytest.raises(BadInputError, match="some.pub: a trusted key must be a PEM public key"):
        start(state)


def test_another_empty_database_is_refused_instead_of_an_empty_fleet(state: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="must be that of this cloud, but it has no tables of a cloud"):
        start(state, database_url=f"sqlite:///{tmp_path / 'empty.db'}")


def test_the_command_refuses_an_empty_operator_token_with_exit_code_2(states: tuple[Path, Path], tmp_path: Path) -> None:
    state = Path(shutil.copytree(states[0], tmp_path / "state"))
    (state / "operator.token").write_bytes(b"")
    command = [
        sys.executable,
        "-c",
        "from edgewright.cli import main; main()",
        "cloud",
        "up",
        "--state",
        str(state),
        "--port",
        "0",
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"edgewright: {state / 'operator.token'} must not be empty, but it is: "
        "restore it from a backup of the state directory, or replace the token with --new-token\n"
    )


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer ", "bearer  ", "Basic ", "Basic b3BlcmF0b3I6", "Basic YTpi"])
def test_an_empty_credential_is_never_compared(authorization: str, tmp_path: Path) -> None:
    state = prepare(tmp_path / "state", (), NOW)
    database = Database.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    with pytest.raises(NoCredentialError):
        identify(authorization, None, state.operator_token, database)
    database.close()


def test_a_state_directory_without_a_token_is_a_defect(tmp_path: Path) -> None:
    state = prepare(tmp_path / "state", (), NOW)
    with pytest.raises(AssertionError, match="an empty token would make everybody an operator"):
        StateDirectory(state.path, state.authority, state.signing_key, "")


def test_an_empty_bearer_token_gets_401(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud:
        assert cloud.anonymous().get("/v1/devices", headers={"Authorization": "Bearer "}).status == 401
