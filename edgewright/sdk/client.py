"""Operations on a cloud, one method per route of docs/spec/protocol.md ("Operators")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from edgewright.contracts import wire
from edgewright.contracts.connection.benchmark_jobs import BenchmarkJobRecord, BenchmarkJobRequest
from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.connection.enrolment import IssuedToken, TokenRequest
from edgewright.contracts.messages import (
    ChangeNumber,
    DeviceRecord,
    ModelVersion,
    RolloutRecord,
    RolloutRequest,
    RolloutState,
    StoredMeasurement,
    TelemetryQueue,
)
from edgewright.contracts.models.known_failures import ForgiveRequest, KnownFailure
from edgewright.contracts.models.maintenance import GRACE_S, Collected, CollectRequest
from edgewright.contracts.models.registration import AliasRequest, Registration
from edgewright.contracts.names import PackageReference
from edgewright.contracts.package import Package
from edgewright.contracts.samples import Tensors
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import NotFoundError, OperationError
from edgewright.sdk import mlflow_folders, pulling, pushing, registering
from edgewright.sdk.connection import TIMEOUT_S
from edgewright.sdk.context import find_context
from edgewright.sdk.endpoints import EndpointCalls
from edgewright.sdk.environments import EnvironmentCalls
from edgewright.sdk.images import ImageCalls
from edgewright.sdk.pipelines.calls import PipelineCalls
from edgewright.sdk.transfer.uploads import Progress
from edgewright.sdk.trying import SampleOptions

SIGNATURE_VALID = timedelta(days=365)
_ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})


class CloudClient(EnvironmentCalls, EndpointCalls, ImageCalls, PipelineCalls):
    """An operator's session with one cloud; a method sends one request unless its docstring states otherwise."""

    @classmethod
    def connect(cls, cloud: str | None = None, *, start_embedded: bool = False) -> CloudClient:
        """Connect to the cloud that `find_context` finds; `start_embedded` creates one in this folder if it finds none."""
        return cls(find_context(cloud, start_embedded=start_embedded))

    def __enter__(self) -> Self:
        """Use as a context manager: the connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # Models

    def models(
        self,
        *,
        tag: str | None = None,
        framework: str | None = None,
        limit: int | None = None,
        after: PackageReference | None = None,
    ) -> tuple[ModelVersion, ...]:
        """Return the newest version of every model, by name; with `tag` (`name=value`) or `framework` every version of it.

        `limit` and `after`, the last version of the page before, give a part of them.
        """
        last = None if after is None else str(after)
        return self._get("/v1/models", tuple[ModelVersion, ...], tag=tag, framework=framework, limit=limit, after=last)

    def model_versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return the versions of a model, oldest first; raise `NotFoundError` with the nearest names."""
        return pushing.versions(self._connection, quote(name, safe=""))

    def model_version(self, reference: PackageReference) -> ModelVersion:
        """Return the version of a number or an alias, or the newest for a reference without either."""
        versions = self.model_versions(reference.name)
        if reference.alias is not None:
            return _with_alias(versions, reference)
        if reference.version is None and versions:
            return versions[-1]
        for version in versions:
            if version.version == reference.version:
                return version
        numbers = ", ".join(str(version.version) for version in versions[-8:]) or "none"
        raise NotFoundError(f"model {reference.name} has no version {reference.version}; known: {numbers}")

    def publish(
        self,
        path: Path,
        key: PrivateKey,
        *,
        valid: timedelta = SIGNATURE_VALID,
        on_progress: Progress = lambda _sent, _total: None,
    ) -> ModelVersion:
        """Push a package (layout directory or tar), sign it and make it the next version of its model.

        Only blobs that the cloud lacks are sent. If another version is published at the same moment, the package is signed
        again for the version after it.
        """
        return pushing.publish(self._connection, path, key, valid=valid, on_progress=on_progress)

    def register_model(
        self,
        name: str,
        path: Path | Sequence[Path],
        registration: Registration | None = None,
        *,
        sample: SampleOptions | None = None,
        keeps_name: bool = False,
        on_progress: Progress = lambda _sent, _total: None,
    ) -> ModelVersion:
        """Register a model's file, folder or files as the next version of `name`; only files that the cloud lacks are sent.

        With `sample`, a worker process runs the model once before. It gives the framework, the schema and the golden sample.
        A single folder keeps its own name in the version only with `keeps_name`.
        """
        paths = [path] if isinstance(path, Path) else list(path)
        facts = registration or Registration()
        return registering.register(
            self._connection, name, paths, facts, sample=sample, keeps_name=keeps_name, on_progress=on_progress
        )

    def download_model(self, version: ModelVersion, target: Path, *, on_progress: Progress = lambda _sent, _total: None) -> Path:
        """Write the registered files of a version into a new folder; every byte is verified."""
        return registering.download(self._connection, version, target, on_progress=on_progress)

    def pull_package(self, version: ModelVersion, target: Path, *, on_progress: Progress = lambda _sent, _total: None) -> Package:
        """Write the package of a version into a new layout directory; every byte is verified."""
        return pulling.pull_package(self._connection, version, target, on_progress=on_progress)

    def import_mlflow(
        self,
        name: str,
        folder: Path,
        *,
        runs: bool = True,
        trust: bool = False,
        on_progress: Progress = lambda _sent, _total: None,
    ) -> ModelVersion:
        """Register an MLflow model folder; with `runs`, run the model once on the input example of the folder."""
        return mlflow_folders.import_mlflow(self._connection, name, folder, runs=runs, trust=trust, on_progress=on_progress)

    def export_mlflow(self, version: ModelVersion, target: Path, *, on_progress: Progress = lambda _sent, _total: None) -> Path:
        """Write a version as an MLflow model folder; one that was imported comes back as it was."""
        return mlflow_folders.export_mlflow(self._connection, version, target, on_progress=on_progress)

    def golden_sample(self, version: ModelVersion) -> tuple[Tensors, Tensors] | None:
        """Return the inputs and outputs of the sample that a version was registered with, or None."""
        return registering.golden_sample(self._connection, version)

    def set_tags(self, version: ModelVersion, tags: dict[str, str]) -> ModelVersion:
        """Replace all tags of a version."""
        return self._send("PUT", f"{_path_of(version)}/tags", ModelVersion, tags)

    def add_properties(self, version: ModelVersion, properties: dict[str, str]) -> ModelVersion:
        """Add properties to a version; raise `ConflictError` for one that exists with another value."""
        return self._send("POST", f"{_path_of(version)}/properties", ModelVersion, properties)

    def set_alias(self, version: ModelVersion, alias: str) -> ModelVersion:
        """Let an alias name a version; it leaves the version that it named before."""
        path = f"/v1/models/{version.model}/aliases/{quote(alias, safe='')}"
        return self._send("PUT", path, ModelVersion, AliasRequest(version=version.version))

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove an alias of a model."""
        self._connection.request("DELETE", f"/v1/models/{quote(model, safe='')}/aliases/{quote(alias, safe='')}")

    def delete_version(self, version: ModelVersion) -> ModelVersion:
        """Delete a version; its number stays taken."""
        return self._send("DELETE", _path_of(version), ModelVersion)

    def collect_unreferenced(self, grace_s: float = GRACE_S) -> Collected:
        """Remove blobs of the registry that nothing refers to and that were not used for `grace_s` seconds."""
        return self._send("POST", "/v1/registry/collect", Collected, CollectRequest(grace_s=grace_s))

    # Devices

    def issue_token(self, request: TokenRequest) -> IssuedToken:
        """Make a one-time enrolment token."""
        return self._send("POST", "/v1/tokens", IssuedToken, request)

    def devices(self) -> tuple[DeviceRecord, ...]:
        """Return every enrolled device."""
        return self._get("/v1/devices", tuple[DeviceRecord, ...])

    def device(self, name: str) -> DeviceRecord:
        """Return one device; raise `NotFoundError` with the nearest names."""
        return self._get(f"/v1/devices/{quote(name, safe='')}", DeviceRecord)

    def set_labels(self, device: str, labels: dict[str, str]) -> DeviceRecord:
        """Replace all labels of a device."""
        return self._send("PUT", f"/v1/devices/{quote(device, safe='')}/labels", DeviceRecord, labels)

    def revoke(self, device: str) -> DeviceRecord:
        """Revoke a device's certificate, so that the device cannot connect again."""
        return self._send("POST", f"/v1/devices/{quote(device, safe='')}/revoke", DeviceRecord)

    def remove_workload(self, device: str, workload: str) -> DeviceRecord:
        """Remove a workload of a device, which stops it and frees its slots."""
        path = f"/v1/devices/{quote(device, safe='')}/workloads/{quote(workload, safe='')}"
        return self._send("DELETE", path, DeviceRecord)

    def benchmarks(self, model: str | None = None) -> tuple[BenchmarkResult, ...]:
        """Return the benchmarks that devices share, of one model or of all, sorted by model and machine."""
        return self._get("/v1/benchmarks", tuple[BenchmarkResult, ...], model=model)

    def forget_benchmarks(self, model: str) -> tuple[BenchmarkResult, ...]:
        """Delete the shared benchmarks of a model and return them; raise `NotFoundError` if there are none."""
        return self._send("DELETE", f"/v1/benchmarks/{quote(model, safe='')}", tuple[BenchmarkResult, ...])

    def create_benchmark_job(self, request: BenchmarkJobRequest) -> BenchmarkJobRecord:
        """Let devices measure a model version; the cloud continues the job without the client."""
        return self._send("POST", "/v1/benchmark-jobs", BenchmarkJobRecord, request)

    def benchmark_job(self, number: int) -> BenchmarkJobRecord:
        """Return one benchmark job."""
        return self._get(f"/v1/benchmark-jobs/{number}", BenchmarkJobRecord)

    def cancel_benchmark_job(self, number: int) -> BenchmarkJobRecord:
        """Cancel a benchmark job on the devices that have not finished it."""
        return self._send("POST", f"/v1/benchmark-jobs/{number}/cancel", BenchmarkJobRecord)

    def watch_benchmark_job(self, number: int) -> Iterator[BenchmarkJobRecord]:
        """Yield a benchmark job after every change until no device that is online has to measure."""
        number_of_changes = self.changes(after=0, wait_s=0)
        last = None
        while True:
            record = self.benchmark_job(number)
            if record != last:
                yield record
            if record.only_waits_for_offline:
                return
            last = record
            number_of_changes = self.changes(after=number_of_changes, wait_s=25)

    def telemetry(
        self, *, device: str | None = None, name: str | None = None, since: datetime | None = None, limit: int = 1000
    ) -> tuple[StoredMeasurement, ...]:
        """Return the newest `limit` matching measurements, ordered by time."""
        return self._get(
            "/v1/telemetry",
            tuple[StoredMeasurement, ...],
            device=device,
            name=name,
            since=None if since is None else since.isoformat(),
            limit=limit,
        )

    def telemetry_queues(self, device: str) -> tuple[TelemetryQueue, ...]:
        """Return the queues of a device, each with the number of its newest measurement."""
        return self._get("/v1/telemetry/queues", tuple[TelemetryQueue, ...], device=device)

    def queued_telemetry(
        self, queue: TelemetryQueue, *, from_sequence: int, limit: int = 10_000
    ) -> tuple[StoredMeasurement, ...]:
        """Return the first `limit` measurements of a queue with this number or a higher one, in their order."""
        return self._get(
            "/v1/telemetry",
            tuple[StoredMeasurement, ...],
            device=queue.device,
            queue_id=queue.queue_id,
            from_sequence=from_sequence,
            limit=limit,
        )

    # Rollouts

    def create_rollout(self, request: RolloutRequest) -> RolloutRecord:
        """Start a rollout; the cloud continues it without the client."""
        return self._send("POST", "/v1/rollouts", RolloutRecord, request)

    def rollouts(self) -> tuple[RolloutRecord, ...]:
        """Return every rollout, newest first."""
        return self._get("/v1/rollouts", tuple[RolloutRecord, ...])

    def rollout(self, number: int) -> RolloutRecord:
        """Return one rollout."""
        return self._get(f"/v1/rollouts/{number}", RolloutRecord)

    def pause_rollout(self, number: int) -> RolloutRecord:
        """Pause a rollout: no further device is offered the version, but a failed gate still halts it."""
        return self._send("POST", f"/v1/rollouts/{number}/pause", RolloutRecord)

    def resume_rollout(self, number: int) -> RolloutRecord:
        """Resume a paused rollout."""
        return self._send("POST", f"/v1/rollouts/{number}/resume", RolloutRecord)

    def abort_rollout(self, number: int) -> RolloutRecord:
        """Abort a rollout: open offers are withdrawn, devices that run the version keep it."""
        return self._send("POST", f"/v1/rollouts/{number}/abort", RolloutRecord)

    def forgive(self, request: ForgiveRequest) -> tuple[KnownFailure, ...]:
        """Remove the known failures of a version, so that it can be rolled out there again; return what was removed."""
        return self._send("POST", "/v1/rollouts/forgive", tuple[KnownFailure, ...], request)

    def watch_rollout(self, number: int) -> Iterator[RolloutRecord]:
        """Yield a rollout now and after each change until it ends, by long-poll requests."""
        number_of_changes = self.changes(after=0, wait_s=0)
        last = None
        while True:
            record = self.rollout(number)
            if record != last:
                yield record
            if record.state not in _ACTIVE:
                return
            last = record
            number_of_changes = self.changes(after=number_of_changes, wait_s=25)

    def changes(self, *, after: int, wait_s: float) -> int:
        """Return the number of changes so far; wait up to `wait_s` until it exceeds `after`."""
        response = self._connection.request(
            "GET", "/v1/changes", query={"after": after, "wait_s": wait_s}, timeout_s=TIMEOUT_S + wait_s
        )
        return wire.decode(response.body, ChangeNumber, what="the number of changes", error=OperationError).number


def _path_of(version: ModelVersion) -> str:
    return f"/v1/models/{version.model}/versions/{version.version}"


def _with_alias(versions: tuple[ModelVersion, ...], reference: PackageReference) -> ModelVersion:
    for version in versions:
        if reference.alias in version.aliases:
            return version
    known = ", ".join(sorted(alias for version in versions for alias in version.aliases)) or "none"
    raise NotFoundError(f"model {reference.name} has no alias {reference.alias}; known: {known}")
