"""Devices of a running cloud that work on benchmark jobs with invented times, over the device's own HTTPS API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgewright.contracts import signing, wire
from edgewright.contracts.connection.benchmarks import BENCHMARK_TYPE
from edgewright.contracts.messages import Measurement, TelemetryBatch
from tests.support.running_cloud import Answer, RunningCloud
from tests.support.scripted_devices import ScriptedDevice, enrol_scripted


@dataclass
class BenchmarkingDevice:
    """A device with a kind of machine; it acts only when a test calls it."""

    scripted: ScriptedDevice
    machine: str
    sent: int = 0

    @property
    def name(self) -> str:
        return self.scripted.name

    def called(self) -> Any:
        """Send one measurement; return the benchmark job in its acknowledgement."""
        self.sent += 1
        measurement = Measurement(sequence=self.sent, at=datetime.now(UTC), name="cpu", value=1.0, unit="percent")
        batch = TelemetryBatch(device=self.name, queue_id="q", measurements=(measurement,))
        answer = self.post("telemetry", json.loads(wire.encode(batch)))
        assert answer.status == 200, answer.body
        return answer.json()["benchmark"]

    def claim(self, model: str, job: int) -> Answer:
        body = {"model": model, "basis": self.basis, "fingerprint": self.machine, "job": job}
        return self.post("benchmarks/claim", body)

    @property
    def basis(self) -> str:
        return wire.digest_of(self.machine.encode())

    def send(self, model: str, job: int | None, median_ms: dict[str, float], key: Path | None = None) -> Answer:
        body = {
            "device": self.name,
            "model": model,
            "version": 1,
            "basis": self.basis,
            "fingerprint": self.machine,
            "measured_at": datetime.now(UTC).isoformat(),
            "fastest": min(median_ms, key=lambda variant: median_ms[variant]),
            "median_ms": median_ms,
            "failures": {},
            "job": job,
        }
        private = signing.load_private_key(key or self.scripted.enrolled.certificate[1])
        return self.post("benchmarks", signing.sign(wire.encode(body), BENCHMARK_TYPE, private))

    def progress(self, job: int, **report: Any) -> Answer:
        return self.post(f"benchmark-jobs/{job}/progress", report)

    def work(self, model: str, job: int, median_ms: dict[str, float]) -> bool:
        """Do as the agent's worker does; return True if this device measured."""
        assert self.post(f"benchmark-jobs/{job}/start", {}).json()["model"] == model
        answer = self.claim(model, job).json()
        if answer["measure"]:
            assert self.send(model, job, median_ms).status == 204
        if answer["measure"] or answer["envelope"]:
            done = self.progress(job, state="done", reason="measured", basis=self.basis)
            assert done.status == 204, done.body
        return bool(answer["measure"])

    def post(self, path: str, body: Any) -> Answer:
        return self.scripted.enrolled.http.post(f"/v1/device/{path}", body)


def enrol_benchmarking(cloud: RunningCloud, name: str, folder: Path, machine: str = "m1", **token: Any) -> BenchmarkingDevice:
    """Enrol a device and let it send its first report, so that it is online."""
    return BenchmarkingDevice(enrol_scripted(cloud, name, folder, **token), machine)
