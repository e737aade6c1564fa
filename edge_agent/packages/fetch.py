"""Worker that fetches a package, in a separate process, so that a bad download cannot crash the agent or keep its memory.

    index      pull the index by the digest in the signed desired state
    signature  verify it before anything else of the package is used: index, model, version, trusted key, expiry
    choose     choose the variant for this device, by its profile or by measuring the fitting ones (measure.py)
    pull       pull the missing blobs of that variant

The result is the record of the slot, from which the agent writes the slot.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.identity.identity import Identity
from edge_agent.packages.choose import Choice, choose, unmeasured
from edge_agent.packages.imported import ImportedPackage, PackageSource
from edge_agent.packages.measure import choose_by_measuring
from edge_agent.packages.oci_client import OciClient
from edge_agent.packages.pull import files_of, pull_missing
from edge_agent.settings import ChooseBy
from edge_agent.storage.imports import Imports
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.workers.requests import FetchRequest, PulledBytes
from edge_agent.workers.worker import serve_request
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
from hardware_profiles.memory import prefer_for_oom_killer


def fetch(request: FetchRequest) -> SlotRecord:
    """Fetch the requested package and return the record of its slot; every byte is verified.

    Raises:
        PackageError: the package is invalid, unsigned, or has no fitting variant.
        UnreachableError: the cloud or the registry does not answer.
        StorageFullError: the disk is full.
    """
    identity = Identity.load(Path(request.state_directory))
    publishers = TrustedKeys.from_pem(identity.enrolment.response.publisher_keys_pem)
    store, desired = Store(Path(request.state_directory)), request.desired
    pulled = PulledBytes(store, desired.desired_number)
    with _source(identity, desired, store, pulled) as registry:
        registry.pull(desired.index)
        verify_signature(registry, desired, publishers, datetime.now(UTC))
        package = read_index(registry, desired.index)
        if package.name != desired.model:
            raise PackageError(f"the package must be of model {desired.model}, but it is of {package.name}")
        choice = _choose(request, load_profile(identity.enrolment.profile), package, registry, store)
        pull_missing(registry, store, choice.variant)
    pulled.close()
    return record_of(desired, package, choice.variant, choice.sentences)


@contextmanager
def _source(identity: Identity, desired: DesiredState, store: Store, pulled: PulledBytes) -> Iterator[PackageSource]:
    """Yield the package that was imported for this desired state, or else the registry."""
    imported = Imports(store.root).package(desired.desired_number)
    if imported is not None:
        yield ImportedPackage(imported, store)
        return
    with OciClient(identity.url, desired.model, identity.tls_context(), store, pulled.add) as registry:
        yield registry


def verify_signature(registry: PackageSource, desired: DesiredState, trusted: TrustedKeys, now: datetime) -> None:
    """Check that a trusted publisher signed this index as this version of this model.

    Raises:
        SignatureError: there is no valid signature; the message gives the reason of each.
    """
    failures: list[str] = []
    for entry in registry.referrers(desired.index.digest, SIGNATURE_TYPE):
        manifest = wire.decode(registry.read_blob(entry), Manifest, what="the signature manifest", error=SignatureError)
        for layer in manifest.layers[:1]:
            try:
                signature = verify_package(registry.read_blob(layer), trusted, index_digest=Digest(desired.index.digest), now=now)
            except SignatureError as error:
                failures.append(str(error))
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
    """Return the record of the slot: the config as `variant.json`, and every layer under its own file name."""
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


def _choose(request: FetchRequest, profile: HardwareProfile, package: Package, registry: PackageSource, store: Store) -> Choice:
    if request.choose is ChooseBy.MEASURED:
        return choose_by_measuring(request, profile, package, registry, store)
    choice = choose(profile, package)
    return unmeasured(choice, package, request.why_unmeasured) if request.why_unmeasured else choice


def _serve(request: FetchRequest) -> SlotRecord:
    """Fetch under a lock, because a worker of a killed agent may still run."""
    lock_path = Path(request.state_directory) / "blobs" / "fetch.lock"
    with reporting_full_disk("the store"), lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if request.choose is ChooseBy.MEASURED:
            prefer_for_oom_killer()
        return fetch(request)


if __name__ == "__main__":
    serve_request(FetchRequest, _serve)
