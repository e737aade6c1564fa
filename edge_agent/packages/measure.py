"""Choose a variant by measuring those that fit on this device: what `choose = "measured"` does, inside the worker that fetches.

    remember   times of an earlier version on the same basis decide, and nothing but the chosen variant is pulled
    pull       else every variant that fits, when the disk has room for all
    lay out    each as a variant's directory of hard links, outside of the slots
    benchmark  `accel.backends.choose`: each in a process of its own, in turns
    record     the times, for the next version

Whatever keeps it from measuring, the profile's order decides as if nothing had been asked, and the sentence says why. What lost
stays among the blobs, where the store collects it when the deployment has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from accel.backends.backend import Backend
from accel.backends.choose import Fastest, backend_versions, find_backends, find_fastest
from edge_agent.packages.choose import Choice, choose, choose_fastest, contenders, unmeasured
from edge_agent.packages.oci_client import Registry
from edge_agent.packages.pull import bytes_missing, files_of, pull_missing
from edge_agent.storage import variant_times
from edge_agent.storage.failpoints import failpoint
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes
from edge_agent.workers.orders import FetchOrder
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.names import Digest
from edgewright.contracts.package import Package, PackagedVariant
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, PackageError, StorageFullError
from hardware_profiles.detect import read_machine
from hardware_profiles.hardware_profile import HardwareProfile


def choose_by_measuring(
    order: FetchOrder, profile: HardwareProfile, package: Package, registry: Registry, store: Store
) -> Choice:
    """Return the variant that is fastest here, or the profile's choice where nothing could be measured.

    Raises:
        PackageError: no variant fits.
        NotFoundError: no backend has the name that is set.
        UnreachableError: the connection failed while a variant was pulled; what came so far stays.
        OperationError: the registry refused.
    """
    by_profile = choose(profile, package)
    candidates = contenders(profile, package, by_profile)
    if not candidates:
        return by_profile
    backends = find_backends(order.backend)
    basis = basis_of(candidates, backends, order.threads)
    times = variant_times.recall(store.root, package.name, basis)
    if times is None:
        benchmark = partial(find_fastest, threads=order.threads, backends=backends, ignore_cache=True)
        try:
            found = _measure(candidates, registry, store, benchmark)
        except _NotMeasuredError as why:
            return unmeasured(by_profile, package, str(why))
        times = _remember(store, order.desired, basis, found)
    return choose_fastest(package, by_profile, times, order.desired.version)


def basis_of(candidates: Sequence[PackagedVariant], backends: Sequence[Backend], threads: int | None) -> Digest:
    """Return the digest of what times depend on, but for the weights: the same for the next training of the same network.

    Of a variant's size only the power of two counts, so that another network under the same name is measured anew.
    """
    configs = sorted((variant.config for variant in candidates), key=lambda config: config.variant)
    basis = {
        "variants": [
            [one.variant, one.precision, one.backend, [str(spec) for spec in one.inputs], one.size_bytes.bit_length()]
            for one in configs
        ],
        "machine": read_machine().fingerprint,
        "software": backend_versions(backends),
        "threads": threads,
    }
    return wire.digest_of(wire.encode(basis))


class _NotMeasuredError(Exception):
    """Why nothing could be measured."""


def _measure(
    candidates: Sequence[PackagedVariant],
    registry: Registry,
    store: Store,
    benchmark: Callable[[list[VariantDirectory]], Fastest],
) -> Fastest:
    failures = _pull_all(candidates, registry, store)
    able = {one.config.variant: files_of(one) for one in candidates if one.config.variant not in failures}
    try:
        with store.laid_out(able) as folder:
            failpoint("measure.after_layout")
            found = benchmark([VariantDirectory.open(folder / name) for name in able])
    except EdgewrightError as failed:
        raise _NotMeasuredError(_without_place(str(failed), store)) from failed
    told = {name: _without_place(reason, store) for name, reason in found.failures.items()}
    return replace(found, failures={**failures, **told})


def _without_place(reason: str, store: Store) -> str:
    """Name a file by its variant: by the time that this is read, the folder is gone."""
    return reason.replace(f"{store.measuring}/", "")


def _pull_all(candidates: Sequence[PackagedVariant], registry: Registry, store: Store) -> dict[str, str]:
    """Pull every candidate; return those whose bytes are wrong, with the reason."""
    failures: dict[str, str] = {}
    needed = bytes_missing(store, candidates)
    try:
        store.require_room(needed)
        for variant in candidates:
            try:
                pull_missing(registry, store, variant)
            except PackageError as damaged:
                failures[variant.config.variant] = str(damaged)
    except StorageFullError as full:
        kept = {layer.digest for layer in candidates[0].layers.values()}
        store.drop({layer.digest for other in candidates[1:] for layer in other.layers.values()} - kept)
        raise _NotMeasuredError(f"the disk has no room for the {needed} bytes of all variants that fit") from full
    if len(failures) == len(candidates):
        raise _NotMeasuredError("; ".join(failures.values()))
    return failures


def _remember(store: Store, desired: DesiredState, basis: Digest, found: Fastest) -> VariantTimes:
    times = VariantTimes(
        model=desired.model,
        version=desired.version,
        measured_at=datetime.now(UTC),
        basis=basis,
        fastest=found.variant,
        median_ms=found.best_ms,
        failures=found.failures,
    )
    failpoint("measure.before_record")
    with suppress(StorageFullError):  # what is not remembered is measured once more
        variant_times.remember(store.root, times)
    failpoint("measure.after_record")
    return times
