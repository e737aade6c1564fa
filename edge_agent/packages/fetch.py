"""The worker that fetches: a process of its own, so that a bad download can take nothing down and frees its memory after.

    index      by the digest that the signed wish names
    signature  before anything else of the package is used: this index, this name, this version, a trusted key, not expired
    choose     the variant for this device, by its profile or by measuring those that fit (measure.py)
    pull       only that variant's blobs, and only those that are not here

It answers with the record of the slot to be; writing the slot is the store's work.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.identity.identity import Identity
from edge_agent.packages.choose import Choice, choose, unmeasured
from edge_agent.packages.measure import choose_by_measuring
from edge_agent.packages.oci_client import Registry
from edge_agent.packages.pull import files_of, pull_missing
from edge_agent.settings import ChooseBy
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.workers.orders import FetchOrder, PulledBytes
from edge_agent.workers.worker import serve_order
from edgewright.contracts import wire
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.messages import DesiredState, RunningVariant
from edgewright.contracts.names import Digest
from edgewright.contracts.oci import Manifest
from edgewright.contracts.package import SIGNATURE_TYPE, Package, PackagedVariant, read_index
from edgewright.contracts.signing import TrustedKeys, verify_package
from edgewright.errors import PackageError, SignatureError
from hardware_profiles.catalog import load_profile
from hardware_profiles.hardware_profile import HardwareProfile


def fetch(order: FetchOrder) -> SlotRecord:
    """Fetch what `order` wishes; everything in the answer was verified."""
    identity = Identity.load(Path(order.state_directory))
    publishers = TrustedKeys.from_pem(identity.membership.response.publisher_keys_pem)
    store, desired = Store(Path(order.state_directory)), order.desired
    pulled = PulledBytes(store, desired.desired_number)
    with Registry(identity.url, desired.model, identity.tls_context(), store, pulled.add) as registry:
        registry.pull(desired.index)
        verify_signature(registry, desired, publishers, datetime.now(UTC))
        package = read_index(registry, desired.index)
        if package.name != desired.model:
            raise PackageError(f"the package must be of {desired.model}, but it says that it is of {package.name}")
        choice = _choose(order, load_profile(identity.membership.profile), package, registry, store)
        pull_missing(registry, store, choice.variant)
    pulled.close()
    return record_of(desired, package, choice.variant, choice.sentences)


def verify_signature(registry: Registry, desired: DesiredState, trusted: TrustedKeys, now: datetime) -> None:
    """Raise `SignatureError` unless a trusted publisher signed this index as this version of this model."""
    failures: list[str] = []
    for entry in registry.referrers(desired.index.digest, SIGNATURE_TYPE):
        manifest = wire.decode(registry.read_blob(entry), Manifest, what="the signature manifest", error=SignatureError)
        for layer in manifest.layers[:1]:
            try:
                signature = verify_package(registry.read_blob(layer), trusted, index_digest=Digest(desired.index.digest), now=now)
            except SignatureError as wrong:
                failures.append(str(wrong))
                continue
            if (signature.model, signature.version) == (desired.model, desired.version):
                return
            failures.append(
                f"the signature must be for {desired.model}:{desired.version}, "
                f"but it is for {signature.model}:{signature.version}"
            )
    if not failures:
        raise SignatureError(f"{desired.model}:{desired.version} must be signed, but the registry has no signature for it")
    raise SignatureError("; ".join(failures))


def record_of(desired: DesiredState, package: Package, variant: PackagedVariant, sentences: tuple[str, ...]) -> SlotRecord:
    """Describe the slot: the config as `variant.json`, every layer under its own file name."""
    files = files_of(variant)
    return SlotRecord(
        desired=desired,
        running=RunningVariant(
            model=desired.model,
            version=desired.version,
            index_digest=package.digest,
            variant=variant.config.variant,
            backend=variant.config.backend,
            precision=variant.config.precision.value,
        ),
        choice=sentences,
        files=files,
        blobs=(package.digest, variant.descriptor.digest, *(file.digest for file in files)),
    )


def _choose(order: FetchOrder, profile: HardwareProfile, package: Package, registry: Registry, store: Store) -> Choice:
    if order.choose is ChooseBy.MEASURED:
        return choose_by_measuring(order, profile, package, registry, store)
    choice = choose(profile, package)
    return unmeasured(choice, package, order.why_unmeasured) if order.why_unmeasured else choice


def _fetch_alone(order: FetchOrder) -> SlotRecord:
    """Fetch with the lock held: a worker of an agent that was killed may still be on its way out."""
    lock_path = Path(order.state_directory) / "blobs" / "fetch.lock"
    with reporting_full_disk("the store"), lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if order.choose is ChooseBy.MEASURED:
            _go_first_when_memory_is_short()
        return fetch(order)


def _go_first_when_memory_is_short() -> None:
    """Let the kernel end this process or a contestant, which inherits it, before the version that scores (proc(5))."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    serve_order(FetchOrder, _fetch_alone)
