"""Take a signed package from a file, such as one on a USB stick: `edgewright agent import`.

    unpack     the tar, into a staging folder of the state directory
    verify     every byte, and the signature of a publisher that the cloud named at enrolment
    choose     a variant must fit this device
    place      choose the workload that runs it; refuse a downgrade unless it is allowed
    hand over  the package appears under a number of its own by one rename; the agent fetches from it

Until the rename nothing on the device has changed. The agent verifies, checks and tries the version like one of the cloud.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.deployment.journal import Journal
from edge_agent.deployment.plan import downgrade
from edge_agent.deployment.workloads import known_workloads
from edge_agent.identity.identity import Identity
from edge_agent.packages.choose import choose
from edge_agent.storage.imports import Imports
from edge_agent.storage.links import Links
from edge_agent.storage.store import FREE_MARGIN_BYTES, Store
from edgewright.contracts import package as packages
from edgewright.contracts.files import is_disk_full
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import Package
from edgewright.contracts.signing import PackageSignature, TrustedKeys, verify_package
from edgewright.errors import ConflictError, NotFoundError, OperationError, SignatureError, StorageFullError
from hardware_profiles.catalog import load_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of an import."""

    workload: str | None = None
    """The workload that runs the package; None for the one that runs its model."""
    allow_downgrade: bool = False
    trial_s: float = 60.0


def import_package(state_directory: Path, path: Path, options: ImportOptions = ImportOptions()) -> DesiredState:
    """Verify the package at `path`, a tar or an OCI layout directory, and hand it to the agent of `state_directory`.

    Returns:
        The desired state that the agent carries out, under the number of the import.

    Raises:
        NotFoundError: the device is not enrolled, or there is no such package.
        PackageError: the package is damaged, incomplete, or has no variant for this device.
        SignatureError: no publisher that the device trusts signed it.
        ConflictError: the version runs already, is a downgrade, or no workload is meant to run its model.
        StorageFullError: the disk is full.
        OperationError: the file cannot be read, or the journal.
    """
    identity = Identity.load(state_directory)
    imports = Imports(state_directory)
    with _unpacked(imports, path) as layout:
        package = packages.read_package(layout)
        packages.verify_blobs(layout, package)
        trusted = TrustedKeys.from_pem(identity.enrolment.response.publisher_keys_pem)
        signature = _signature(layout, package, trusted)
        choose(load_profile(identity.enrolment.profile), package)
        known = _read_known(state_directory)
        desired = DesiredState(
            device=identity.device,
            desired_number=imports.next_number(known.highest_import),
            model=package.name,
            version=signature.version,
            index=package.descriptor,
            allow_downgrade=options.allow_downgrade,
            trial_s=options.trial_s,
            workload=_workload(known, package.name, options.workload),
        )
        _check_running(state_directory, desired)
        imports.add(layout.path, desired)
    return desired


@contextmanager
def _unpacked(imports: Imports, path: Path) -> Iterator[OciLayout]:
    """Yield a copy of the package on the disk of the state directory, so that a removed stick does no harm."""
    if not path.exists():
        raise NotFoundError(f"{path}: no such package; it must be a tar of 'edgewright packages export', or a package directory")
    if path.is_dir():
        OciLayout.open(path)
    with imports.staging() as staging:
        _require_space(staging, path)
        try:
            if path.is_dir():
                shutil.copytree(path, staging, dirs_exist_ok=True)
            else:
                packages.unpack_tar(path, staging)
        except (OSError, shutil.Error) as error:
            if is_disk_full(error):
                raise
            raise OperationError(f"{path} must be readable, but it is not ({error}): copy it again") from error
        yield OciLayout.open(staging)


def _require_space(staging: Path, path: Path) -> None:
    files = path.rglob("*") if path.is_dir() else (path,)
    needed = sum(file.stat().st_size for file in files if file.is_file()) + FREE_MARGIN_BYTES
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise StorageFullError(f"the import of {path} needs {needed} bytes of free disk, but {free} are free: free some space")


def _signature(layout: OciLayout, package: Package, trusted: TrustedKeys) -> PackageSignature:
    """Return the valid signature of the package."""
    failures = []
    for envelope in packages.signatures(layout, package):
        try:
            signature = verify_package(envelope, trusted, index_digest=package.digest, now=datetime.now(UTC))
        except SignatureError as error:
            failures.append(str(error))
            continue
        if signature.model == package.name:
            return signature
        failures.append(f"the signature must be for {package.name}, but it is for {signature.model}")
    if not failures:
        raise SignatureError(f"package {package.name} must be signed, but it is not: use 'edgewright packages sign'")
    raise SignatureError("; ".join(failures))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Facts of the journal that an import depends on."""

    models: dict[str, str]
    """The model of each workload."""
    by_cloud: bool
    """True if the cloud has sent a desired state."""
    highest_import: int


def _read_known(state_directory: Path) -> _Known:
    journal = Journal.read_only(state_directory)
    if journal is None:
        return _Known(models={}, by_cloud=False, highest_import=0)
    with closing(journal):
        try:
            names = known_workloads(Store(state_directory), journal)
            current = {name: journal.of(name).current() for name in names}
            return _Known(
                models={name: each.desired.model if each else name for name, each in current.items()},
                by_cloud=journal.device_desired() is not None,
                highest_import=journal.highest_number(imported=True),
            )
        except sqlite3.Error as error:
            raise OperationError(f"the journal in {state_directory} cannot be read: {error}; start the agent once") from error


def _workload(known: _Known, model: str, asked: str | None) -> str:
    """Return the workload that is to run `model`; only the cloud adds one to those that it sent."""
    fitting = sorted(name for name, its_model in known.models.items() if its_model == model)
    names = ", ".join(sorted(known.models)) or "none"
    if asked is not None:
        if known.by_cloud and asked not in known.models:
            raise ConflictError(f"--workload must be one that the cloud gave to this device ({names}), not {asked}")
        return asked
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConflictError(f"one workload must run {model}, but {', '.join(fitting)} do: choose one with --workload")
    if known.by_cloud:
        raise ConflictError(f"a workload of this device must run {model}, but none does ({names}): choose one with --workload")
    return model


def _check_running(state_directory: Path, desired: DesiredState) -> None:
    active = Links(Store(state_directory), desired.workload).active()
    if active is None:
        return
    if active.running.index_digest == desired.index.digest and active.running.version == desired.version:
        raise ConflictError(f"{desired.model}:{desired.version} runs already as {desired.workload}: there is nothing to import")
    if downgrade(desired, active.running) is not None:
        raise ConflictError(
            f"the version of {desired.model} must be at least the running {active.running.version}, but it is {desired.version}: "
            "permit it with --allow-downgrade"
        )
