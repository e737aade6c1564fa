"""A fleet without a network: the rollout engine on a real database, and devices whose reports a test writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from cloud.db import schema
from cloud.db.database import Database
from cloud.fleet import devices, twins
from cloud.rollouts import engine, failures, operations
from cloud.rollouts.store import one_rollout
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import (
    DeploymentState,
    DesiredState,
    FailureCause,
    ModelVersion,
    ReportedState,
    ReportedWorkload,
    RolloutRecord,
    RolloutRequest,
    RunningVariant,
)
from edgewright.contracts.models.known_failures import ForgiveRequest, KnownFailure
from edgewright.contracts.oci import INDEX_TYPE, Descriptor

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROFILES = {"cam-1": "raspberry-pi-4", "cam-2": "raspberry-pi-4", "gate-1": "generic-x86-64"}


def index_of(version: int) -> Descriptor:
    return Descriptor(mediaType=INDEX_TYPE, digest=wire.digest_of(b"digits %d" % version), size=9)


@dataclass
class Fleet:
    """A cloud without a network, and devices whose reports the test writes."""

    database: Database
    key: signing.PrivateKey
    now: datetime = START
    holder: str = "worker-1"
    sequence: dict[str, int] = field(default_factory=dict)
    workloads: dict[str, dict[str, ReportedWorkload]] = field(default_factory=dict)

    def add_device(self, name: str, **labels: str) -> None:
        row = {
            "device": name,
            "labels": labels,
            "profile": PROFILES[name],
            "enrolled_at": self.now,
            "last_seen_at": self.now,
            "reported_offline": False,
            "revoked": False,
            "telemetry_count": 0,
        }
        with self.database.transaction() as connection:
            connection.execute(insert(schema.devices).values(row))
            twin = {"device": name, "desired_number": 0, "desired_change": 0, "reported_sequence": 0}
            connection.execute(insert(schema.twins).values(twin))

    def publish(self, version: int) -> None:
        record = ModelVersion(
            model="digits",
            version=version,
            index=index_of(version),
            published_at=self.now,
            variants=("fp32",),
            size_bytes=9,
            key_id="k",
        )
        row = {
            "model": "digits",
            "version": version,
            "index_digest": record.index.digest,
            "record": wire.encode(record),
            "deleted": False,
        }
        with self.database.transaction() as connection:
            connection.execute(insert(schema.model_versions).values(row))

    def create(self, version: int | None = None, **changes: object) -> int:
        request = RolloutRequest(model="digits", version=version, **changes)  # type: ignore[arg-type]
        with self.database.transaction() as connection:
            return operations.create(connection, request, self.now).number

    def forgive(self, version: int, profile: str | None = None) -> list[KnownFailure]:
        with self.database.transaction() as connection:
            return failures.forgive(connection, ForgiveRequest(model="digits", version=version, profile=profile))

    def tick(self, *, holder: str | None = None) -> None:
        engine.tick(self.database, self.key, holder or self.holder, self.now)

    def show(self, number: int) -> RolloutRecord:
        with self.database.reading() as connection:
            return one_rollout(connection, number).record()

    def desired(self, device: str) -> DesiredState | None:
        with self.database.reading() as connection:
            return devices.record(connection, device, self.now).desired

    def desired_versions(self) -> dict[str, int | None]:
        """Return the desired version of every device."""
        states = {device: self.desired(device) for device in PROFILES}
        return {device: None if desired is None else desired.version for device, desired in states.items()}

    def report(
        self,
        device: str,
        state: DeploymentState,
        reason: str = "scripted",
        *,
        running: int | None = None,
        cause: FailureCause | None = None,
        workload: str | None = None,
        number: int | None = None,
    ) -> None:
        """Report as an agent that knows one workload, or on `workload` as one that knows several."""
        state_of_device = self.desired(device)
        assert state_of_device is not None
        desired = state_of_device if workload is None else state_of_device.of(workload)
        assert desired is not None
        self.sequence[device] = self.sequence.get(device, 0) + 1
        runs = desired.version if running is None and state is DeploymentState.RUNNING else running
        report = ReportedState(
            device=device,
            desired_number=desired.desired_number if number is None else number,
            state=state,
            reason=reason,
            since=self.now,
            sequence=self.sequence[device],
            running=None if runs is None else a_variant(runs),
            cause=cause,
        )
        if workload is not None:
            reported = report.of(workload)
            assert reported is not None
            reports = self.workloads.setdefault(device, {})
            reports[workload] = reported
            report = replace(report, workloads=tuple(reports.values()))
        with self.database.transaction() as connection:
            twins.store_report(connection, device, report, self.now)

    def obey(self) -> None:
        """Let every device run its desired version until all rollouts have ended."""
        for _ in range(4):
            self.tick()
            for device, version in self.desired_versions().items():
                if version is not None:
                    self.report(device, DeploymentState.RUNNING)
        self.tick()


def a_variant(version: int) -> RunningVariant:
    return RunningVariant(
        model="digits",
        version=version,
        index_digest=index_of(version).digest,
        variant="fp32",
        backend="onnxruntime",
        precision="fp32",
    )


@pytest.fixture
def fleet(database_url: str) -> Iterator[Fleet]:
    database = Database.open(database_url)
    fleet = Fleet(database, signing.generate_key())
    for device in PROFILES:
        fleet.add_device(device, site="east" if device.startswith("cam") else "west")
    for version in (1, 2, 3):
        fleet.publish(version)
    yield fleet
    database.close()
