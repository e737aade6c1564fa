"""The real cloud, a publisher that it trusts, and one enrolled device whose agent is a real process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud.db.database import Database
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from edgewright.contracts import signing
from tests.edge_agent.conftest import Device
from tests.support.device_packages import MODEL, Built
from tests.support.running_cloud import RunningCloud, running
from tests.support.short_lived_certs_cloud import running_with_short_lived_certs
from tests.support.small_packages import SmallPackage, push

WAIT_S = 45.0
NAME = "cam-9"


class Fleet:
    """A cloud, a trusted publisher and one enrolled device."""

    def __init__(self, cloud: RunningCloud, key: signing.PrivateKey, folder: Path) -> None:
        self.cloud = cloud
        self.key = key
        self.device = Device(folder / "device", NAME)

    def publish(self, built: Built, version: int) -> None:
        package = SmallPackage(built.layout, built.package)
        operator = self.cloud.operator()
        push(operator, package, MODEL)
        answer = operator.post(f"/v1/models/{MODEL}/versions", package.signed(self.key, version))
        assert answer.status == 201, answer.body

    def set_desired(self, built: Built, version: int, *, trial_s: float = 0.0) -> None:
        """Set the device's desired state, as the rollout engine does."""
        database = Database.open(f"sqlite:///{self.cloud.state / 'cloud.db'}")
        key = signing.load_private_key(self.cloud.state / "cloud.key")
        spec = DesiredSpec(model=MODEL, version=version, index=built.package.descriptor, trial_s=trial_s)
        with database.transaction() as connection:
            set_desired(connection, key, NAME, spec)
        database.close()

    def record_when(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `holds` is true for the device's record, by long-polls for changes, and return the record."""
        operator, number, deadline = self.cloud.operator(), 0, time.monotonic() + WAIT_S
        while True:
            record: dict[str, Any] = operator.get(f"/v1/devices/{NAME}").json()
            if holds(record):
                return record
            assert time.monotonic() < deadline, f"{record}\n{self.device.log()}"
            number = operator.get(f"/v1/changes?after={number}&wait_s=5").json()["number"]


def runs(version: int) -> Callable[[dict[str, Any]], bool]:
    def holds(record: dict[str, Any]) -> bool:
        reported = record["reported"] or {}
        return reported.get("state") == "running" and reported["running"]["version"] == version

    return holds


@contextmanager
def fleet(folder: Path, *options: str, life_s: float | None = None) -> Iterator[Fleet]:
    """Yield a fleet; `life_s` sets the lifetime of its certificates."""
    key = signing.generate_key()
    publisher = folder / "publisher.pub"
    publisher.write_text(signing.public_pem(key.public_key()))
    state = folder / "cloud"
    running_cloud = (
        running(state, "--trust", str(publisher), *options)
        if life_s is None
        else running_with_short_lived_certs(state, publisher, life_s, *options)
    )
    with running_cloud as cloud:
        created = Fleet(cloud, key, folder)
        token = cloud.operator().post("/v1/tokens", {}).json()["token"]
        created.device.enrol(token)
        try:
            yield created
        finally:
            created.device.stop()
