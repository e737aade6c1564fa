"""Scripted devices of a running cloud: a test makes them fetch desired state and report over HTTPS."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgewright.contracts import wire
from edgewright.contracts.messages import (
    DeploymentState,
    DesiredState,
    Measurement,
    ReportedState,
    ReportedWorkload,
    RunningVariant,
    TelemetryBatch,
)
from tests.support.running_cloud import EnrolledDevice, RunningCloud


@dataclass
class ScriptedDevice:
    """An enrolled device that acts only when a test calls it."""

    enrolled: EnrolledDevice
    sequence: int = 0
    seen: int = 0
    workload: str = ""
    """The workload that changed last."""
    workloads: dict[str, ReportedWorkload] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.enrolled.device

    def wait_for_desired(self, wait_s: float = 20) -> DesiredState:
        """Return the next desired state; its signature is tested with the agent."""
        answer = self.enrolled.http.get(f"/v1/device/desired?have={self.seen}&wait_s={wait_s}")
        assert answer.status == 200, f"{self.name} got no desired state within {wait_s} s"
        payload = base64.b64decode(answer.json()["payload"])
        desired = wire.decode(payload, DesiredState, what="desired state")
        self.seen, self.workload = desired.desired_number, desired.workload
        return desired

    def has_no_newer_desired(self, wait_s: float = 0) -> bool:
        return self.enrolled.http.get(f"/v1/device/desired?have={self.seen}&wait_s={wait_s}").status == 204

    def report(
        self, state: DeploymentState | None, reason: str = "", *, running: DesiredState | None = None, **more: Any
    ) -> None:
        self.sequence += 1
        report = ReportedState(
            device=self.name,
            desired_number=self.seen,
            state=state,
            reason=reason,
            since=datetime.now(UTC),
            sequence=self.sequence,
            running=None if running is None else variant_of(running),
            **more,
        )
        changed = report.of(self.workload) if self.workload else None
        if changed is not None:
            self.workloads[changed.workload] = changed
        report = replace(report, workloads=tuple(self.workloads.values()))
        answer = self.enrolled.http.post("/v1/device/reported", wire.to_plain(report))
        assert answer.status == 204, answer.body

    def run_desired(self, wait_s: float = 20) -> DesiredState:
        """Wait for the next desired state and report it as running."""
        desired = self.wait_for_desired(wait_s)
        self.report(DeploymentState.RUNNING, "passed its trial", running=desired)
        return desired

    def measure(self, name: str, unit: str, *values: float) -> None:
        now = datetime.now(UTC)
        measurements = tuple(
            Measurement(sequence=sequence, at=now, name=name, value=value, unit=unit) for sequence, value in enumerate(values, 1)
        )
        batch = TelemetryBatch(device=self.name, queue_id=f"queue-{name}", measurements=measurements)
        answer = self.enrolled.http.post("/v1/device/telemetry", json.loads(wire.encode(batch)))
        assert answer.status == 200, answer.body


def variant_of(desired: DesiredState, variant: str = "int8") -> RunningVariant:
    return RunningVariant(
        model=desired.model,
        version=desired.version,
        index_digest=desired.index.digest,
        variant=variant,
        backend="onnxruntime",
        precision="int8",
    )


def enrol_scripted(cloud: RunningCloud, name: str, folder: Path, **token: Any) -> ScriptedDevice:
    """Enrol a device and let it send its first report."""
    device = ScriptedDevice(cloud.enrol(name, folder, **token))
    device.report(None, "enrolled")
    return device
