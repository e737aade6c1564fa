"""Worker of a benchmark job: measure the fitting variants of a version because the cloud asks for it.

    start      ask for the job: a model version and a byte budget
    index      pull and verify the package's index, as for a deployment
    select     every variant that fits, in the profile's order, until the byte budget is used; the others are left out
    claim      the result of a device with the same machine, or the right to measure, or wait for the device that has it
    measure    pull and benchmark; a variant for an NPU on its board, never on the functional model
    send       the signed result, then the outcome

The files of a variant that no slot uses are removed at the end. The agent limits the time.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from accel.backends.backend import Backend
from accel.backends.choose import find_backends, find_fastest
from accel.backends.npu_board import Npu, NpuOnBoard
from edge_agent.identity.identity import Identity
from edge_agent.link.https_client import HttpsRequest
from edge_agent.packages.choose import choose
from edge_agent.packages.fetch import verify_signature
from edge_agent.packages.measure import NotMeasuredError, basis_of, measure_all, store_times, times_of
from edge_agent.packages.oci_client import OciClient
from edge_agent.packages.pull import bytes_missing
from edge_agent.packages.shared_times import SharedTimes, fingerprint_of
from edge_agent.storage.store import Store
from edge_agent.workers.requests import BenchmarkRequest
from edge_agent.workers.worker import serve_request
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmark_jobs import MAX_REASON, BenchmarkOrder, BenchmarkProgress, JobState
from edgewright.contracts.connection.benchmarks import BenchmarkClaim
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.package import Package, PackagedVariant, read_index
from edgewright.contracts.signing import TrustedKeys
from edgewright.errors import ConflictError, EdgewrightError, PackageError, UnreachableError
from hardware_profiles.catalog import load_profile
from hardware_profiles.detect import read_machine
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import fits
from hardware_profiles.memory import prefer_for_oom_killer

_WAITS = BenchmarkProgress(state=JobState.WAITING, reason="another device with the same machine measures")


@dataclass(frozen=True, slots=True)
class Selection:
    """Variants to measure, and the reason for each fitting one that is left out."""

    variants: tuple[PackagedVariant, ...]
    left_out: dict[str, str] = field(default_factory=dict)


class BenchmarkJob:
    """One job of this device."""

    def __init__(self, request: BenchmarkRequest) -> None:
        self._request = request
        self._identity = Identity.load(Path(request.state_directory))
        self._store = Store(Path(request.state_directory))

    def run(self) -> str:
        """Work on the job and report it; return the outcome.

        Raises:
            UnreachableError: the cloud or the registry does not answer; the job stays open.
        """
        if self._request.failure:
            return self._report(BenchmarkProgress(state=JobState.FAILED, reason=self._request.failure[:MAX_REASON]))
        try:
            order = wire.decode(self._send("start", b"{}"), BenchmarkOrder, what="the benchmark job")
        except ConflictError as error:
            return str(error)
        try:
            progress = self._measure(order)
        except UnreachableError:
            raise
        except (EdgewrightError, NotMeasuredError) as error:
            progress = BenchmarkProgress(state=JobState.FAILED, reason=str(error)[:MAX_REASON])
        return self._report(progress)

    def _measure(self, order: BenchmarkOrder) -> BenchmarkProgress:
        identity, store = self._identity, self._store
        wanted = DesiredState(
            device=identity.device, desired_number=1, model=order.model, version=order.version, index=order.index
        )
        publishers = TrustedKeys.from_pem(identity.enrolment.response.publisher_keys_pem)
        with OciClient(identity.url, order.model, identity.tls_context(), store, lambda _count: None) as registry:
            registry.pull(order.index)
            verify_signature(registry, wanted, publishers, datetime.now(UTC))
            package = read_index(registry, order.index)
            if package.name != order.model:
                raise PackageError(f"the package must be of model {order.model}, but it is of {package.name}")
            selection = select(load_profile(identity.enrolment.profile), package, store, order.budget_bytes)
            with _removed_afterwards(store, selection.variants):
                return self._result(wanted, order, selection, registry)

    def _result(
        self, wanted: DesiredState, order: BenchmarkOrder, selection: Selection, registry: OciClient
    ) -> BenchmarkProgress:
        """Take the result of another device, or measure and send; wait while another device measures."""
        backends = on_board(find_backends(self._request.backend))
        threads = self._request.threads
        basis = basis_of(selection.variants, backends, threads)
        claim = BenchmarkClaim(model=order.model, basis=basis, fingerprint=fingerprint_of(read_machine()), job=order.job)
        shared = SharedTimes(self._store.root, wait_s=0)
        times, must_measure = shared.ask(claim, {variant.config.variant for variant in selection.variants})
        if times is None and not must_measure:
            return _WAITS
        reason = "measured"
        if times is None:
            benchmark = partial(find_fastest, threads=threads, backends=backends, ignore_cache=True)
            try:
                fastest = measure_all(selection.variants, registry, self._store, benchmark)
            except NotMeasuredError:
                shared.release(claim)
                raise
            times = times_of(wanted, basis, fastest)
            shared.send(claim, times)
        else:
            reason = f"not measured again: {times.measured_by or 'this device'} has measured for this machine"
        store_times(self._store, times)
        return BenchmarkProgress(state=JobState.DONE, reason=reason, basis=basis, left_out=selection.left_out)

    def _report(self, progress: BenchmarkProgress) -> str:
        try:
            self._send("progress", wire.encode(progress))
        except ConflictError as error:
            return str(error)
        return f"{progress.state}: {progress.reason}"

    def _send(self, step: str, body: bytes) -> bytes:
        path = f"/v1/device/benchmark-jobs/{self._request.job}/{step}"
        return HttpsRequest(self._identity.url, self._identity.tls_context()).send("POST", path, body).body


def select(profile: HardwareProfile, package: Package, store: Store, budget_bytes: int | None) -> Selection:
    """Return the fitting variants whose missing bytes are within the budget, the profile's choice first.

    Raises:
        PackageError: no variant fits, or none is within the budget.
    """
    preferred = choose(profile, package).variant
    others = (each for each in package.variants if each != preferred and fits(profile, each.config) is None)
    selected: list[PackagedVariant] = []
    left_out: dict[str, str] = {}
    for variant in (preferred, *others):
        needed = bytes_missing(store, [*selected, variant])
        if budget_bytes is not None and needed > budget_bytes:
            left_out[variant.config.variant] = f"{needed} bytes would be pulled, over the budget of {budget_bytes}"
        else:
            selected.append(variant)
    if not selected:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PackageError(f"the byte budget must allow one variant, but {reasons}: allow more with --budget-mb")
    return Selection(tuple(selected), left_out)


def on_board(backends: Sequence[Backend]) -> list[Backend]:
    """Return the backends, with that of the NPU replaced by the one that requires a board."""
    return [NpuOnBoard() if isinstance(each, Npu) else each for each in backends]


@contextmanager
def _removed_afterwards(store: Store, variants: Sequence[PackagedVariant]) -> Iterator[None]:
    """Remove the layers of variants that no slot uses when the block ends."""
    try:
        yield
    finally:
        store.remove_blobs({layer.digest for variant in variants for layer in variant.layers.values()})


def _serve(request: BenchmarkRequest) -> str:
    """Work under the lock of the worker that fetches, because both write the store."""
    lock_path = Path(request.state_directory) / "blobs" / "fetch.lock"
    with reporting_full_disk("the store"), lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prefer_for_oom_killer()
        return BenchmarkJob(request).run()


if __name__ == "__main__":
    serve_request(BenchmarkRequest, _serve)
