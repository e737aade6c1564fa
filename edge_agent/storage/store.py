"""Verified blobs, and slots with one model version of one workload each; links.py has the links to the slots that run.

    blobs/sha256/<hex>        complete, verified blobs
    blobs/partial/<hex>       incomplete downloads, resumed after a kill
    slots/<desired_number>/   one variant as contracts.variant.VariantDirectory: hard links to blobs, and slot.json
    measuring/<variant>/      hard links to blobs while variants are measured
    ballast                   deleted if the disk is full at the start, so that the agent has room to start

A slot appears by one rename, so a power cut leaves none or a whole one. Workloads share the blobs. Files that no link reaches are
removed after a deployment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.storage.failpoints import failpoint
from edge_agent.storage.variant_times import MEASURED
from edgewright.contracts import wire
from edgewright.contracts.files import reporting_full_disk, sync_path, write_atomically
from edgewright.contracts.messages import DesiredState, RunningVariant
from edgewright.contracts.names import check_digest
from edgewright.contracts.oci import Descriptor, check_bytes, describe_file
from edgewright.errors import PackageError, StorageFullError

SLOT_FILE = "slot.json"
COMMITTED = ".committed"
FREE_MARGIN_BYTES = 1 << 20
BALLAST = "ballast"
BALLAST_BYTES = 512 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFile:
    """A file of a slot and its blob."""

    name: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        check_digest(self.digest)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise PackageError(f"a slot's file must have a plain name, not {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """Contents of a slot, the reasons for its variant, and all blobs that must be kept for it."""

    desired: DesiredState
    running: RunningVariant
    choice: tuple[str, ...]
    files: tuple[SlotFile, ...]
    blobs: tuple[str, ...]


class Store:
    """Blobs, slots and links of a state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.partial = root / "blobs" / "partial"
        self._blobs = root / "blobs" / "sha256"
        self._slots = root / "slots"
        self.measuring = root / "measuring"

    def prepare(self) -> None:
        """Create the folders, remove incomplete files of a killed agent, and delete the ballast if the disk is full."""
        if shutil.disk_usage(self.root).free < BALLAST_BYTES:
            (self.root / BALLAST).unlink(missing_ok=True)
        with reporting_full_disk("the store"):
            for folder in (self.partial, self._blobs, self._slots):
                folder.mkdir(parents=True, exist_ok=True)
        incomplete = (*self._blobs.glob(".partial-*"), *(self.root / MEASURED).glob(".partial-*"))
        for leftover in (*self._slots.glob(".staging-*"), *self.root.glob(".link-*"), *incomplete):
            _remove(leftover)

    def restore_ballast(self) -> None:
        """Write the ballast again if there is enough space."""
        ballast = self.root / BALLAST
        if not ballast.exists() and shutil.disk_usage(self.root).free > FREE_MARGIN_BYTES + BALLAST_BYTES:
            write_atomically(ballast, os.urandom(BALLAST_BYTES))  # random, so that no file system compresses it away

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob, which may not exist."""
        return self._blobs / _hex(digest)

    def partial_path(self, digest: str) -> Path:
        """Return the path of the incomplete download of a blob."""
        return self.partial / _hex(digest)

    def has_blob(self, digest: str, size: int) -> bool:
        """Return True if the blob is stored; its bytes were verified when it was added."""
        path = self.blob_path(digest)
        return path.is_file() and path.stat().st_size == size

    def drop_damaged_blob(self, descriptor: Descriptor) -> bool:
        """Remove a stored blob whose bytes have changed since they were verified; return True if one was removed."""
        path = self.blob_path(descriptor.digest)
        try:
            actual = describe_file(path, descriptor.mediaType)
        except FileNotFoundError:
            return False
        except OSError:  # the disk cannot read it
            path.unlink(missing_ok=True)
            return True
        if (actual.digest, actual.size) == (descriptor.digest, descriptor.size):
            return False
        path.unlink()
        return True

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a blob after verifying them again.

        Raises:
            PackageError: the blob is missing or damaged.
        """
        try:
            return check_bytes(self.blob_path(descriptor.digest).read_bytes(), descriptor)
        except FileNotFoundError as error:
            raise PackageError(f"blob {descriptor.digest} is missing from the device's store") from error

    def write_blob(self, raw: bytes, descriptor: Descriptor) -> None:
        """Add a small blob.

        Raises:
            PackageError: the bytes do not match the descriptor.
        """
        check_bytes(raw, descriptor)
        write_atomically(self.blob_path(descriptor.digest), raw)

    def add_download(self, descriptor: Descriptor) -> bool:
        """Verify a finished download and add it as a blob; if its bytes are wrong, remove it and return False."""
        partial = self.partial_path(descriptor.digest)
        actual = describe_file(partial, descriptor.mediaType)
        if (actual.digest, actual.size) != (descriptor.digest, descriptor.size):
            partial.unlink()
            return False
        with reporting_full_disk("a blob"):
            sync_path(partial)
            partial.chmod(0o444)
            failpoint("blob.before_rename")
            partial.replace(self.blob_path(descriptor.digest))
            sync_path(self._blobs)
            failpoint("blob.after_rename")
        return True

    def require_space(self, needed_bytes: int) -> None:
        """Check that the disk has space for `needed_bytes` and a margin.

        Raises:
            StorageFullError: the disk has less space.
        """
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes + FREE_MARGIN_BYTES:
            raise StorageFullError(
                f"the package needs {needed_bytes + FREE_MARGIN_BYTES} bytes of free disk, but {free} are free: "
                "free some space; the device retries automatically"
            )

    def remove_blobs(self, digests: Iterable[str]) -> None:
        """Remove these blobs and their incomplete downloads, except those that a slot uses."""
        used = {digest for record in self._records() for digest in record.blobs}
        for digest in set(digests) - used:
            self.blob_path(digest).unlink(missing_ok=True)
            self.partial_path(digest).unlink(missing_ok=True)

    @contextlib.contextmanager
    def variants_linked(self, variants: Mapping[str, Sequence[SlotFile]]) -> Iterator[Path]:
        """Yield a temporary folder with one directory of hard links per variant.

        Raises:
            PackageError: a blob is missing.
            StorageFullError: the disk is full.
        """
        _remove(self.measuring)  # left by a killed worker
        try:
            with reporting_full_disk("the variants to measure"):
                for name, files in variants.items():
                    (self.measuring / name).mkdir(parents=True)
                    self._link(self.measuring / name, files)
            yield self.measuring
        finally:
            _remove(self.measuring)

    # Slots

    def slot_path(self, desired_number: int) -> Path:
        """Return the path of a slot, which may not exist."""
        return self._slots / str(desired_number)

    def write_slot(self, record: SlotRecord, *, replace: bool = False) -> Path:
        """Create the slot of a fetched variant and return its path; an equal one is kept unless `replace` is set.

        Raises:
            PackageError: a blob is missing.
            StorageFullError: the disk is full.
        """
        target = self.slot_path(record.desired.desired_number)
        if not replace and self.slot(record.desired.desired_number) == record:
            return target
        with reporting_full_disk("a slot"):
            staging = Path(tempfile.mkdtemp(dir=self._slots, prefix=".staging-"))
            try:
                self._fill(staging, record)
                failpoint("slot.before_rename")
                _remove(target)
                staging.rename(target)
                sync_path(self._slots)
                failpoint("slot.after_rename")
            except BaseException:
                _remove(staging)
                raise
        return target

    def slot(self, desired_number: int) -> SlotRecord | None:
        """Return the record of a slot; None if the slot is missing or incomplete."""
        return read_record(self.slot_path(desired_number))

    def mark_committed(self, desired_number: int) -> None:
        """Mark that this slot passed its trial, so that a lost link can be restored."""
        write_atomically(self.slot_path(desired_number) / COMMITTED, b"")

    def committed(self) -> list[SlotRecord]:
        """Return the slots that passed their trial, oldest first."""
        return [record for record in self._records() if (self._path_of(record) / COMMITTED).is_file()]

    def collect(self, kept: Sequence[SlotRecord]) -> int:
        """Remove slots, blobs and downloads that no slot of `kept` uses; return the number of freed bytes."""
        numbers = {str(record.desired.desired_number) for record in kept}
        blobs = {_hex(digest) for record in kept for digest in record.blobs}
        failpoint("collect.before_unlink")
        unreachable = [path for path in self._slots.iterdir() if path.name not in numbers]
        unreachable += [path for path in self._blobs.iterdir() if path.name not in blobs]
        unreachable += [*self.partial.iterdir(), self.measuring]
        freed_bytes = sum(path.stat().st_size for path in unreachable if path.is_file())
        for path in unreachable:
            _remove(path)
        return freed_bytes

    def _fill(self, staging: Path, record: SlotRecord) -> None:
        self._link(staging, record.files)
        write_atomically(staging / SLOT_FILE, wire.encode(record))

    def _link(self, folder: Path, files: Sequence[SlotFile]) -> None:
        for file in files:
            if not self.has_blob(file.digest, file.size):
                raise PackageError(f"blob {file.digest} is missing from the device's store: it is fetched again")
            os.link(self.blob_path(file.digest), folder / file.name)

    def _records(self) -> list[SlotRecord]:
        records = (read_record(path) for path in self._slots.iterdir() if path.name.isdigit())
        return sorted((record for record in records if record), key=lambda record: record.desired.desired_number)

    def _path_of(self, record: SlotRecord) -> Path:
        return self.slot_path(record.desired.desired_number)


def read_record(slot: Path) -> SlotRecord | None:
    """Return the record of a slot; None if the record or a file is missing or damaged."""
    try:
        record = wire.decode((slot / SLOT_FILE).read_bytes(), SlotRecord, what=str(slot / SLOT_FILE), error=PackageError)
    except (OSError, PackageError):
        return None
    complete = all((slot / file.name).is_file() and (slot / file.name).stat().st_size == file.size for file in record.files)
    return record if complete else None


def _hex(digest: str) -> str:
    return check_digest(digest).removeprefix("sha256:")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
