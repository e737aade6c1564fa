"""What lies on the device's disk: verified blobs, slots made of them, and the two links that say what runs.

    blobs/sha256/<hex>        whole and verified, nothing else
    blobs/partial/<hex>       on its way; survives a kill and is resumed
    slots/<desired_number>/  one variant, laid out as contracts.variant.VariantDirectory, hard links to blobs, slot.json
    active -> slots/5         what runs
    last_good -> slots/4      what passed its trial, to return to
    measuring/<variant>/      while variants are measured: hard links to blobs
    ballast                   given up when the disk is full at the start, so that the agent has room to begin

A slot appears by one rename and a link changes by one rename, so a power cut leaves the old or the new, never half. A lost
link is found again from the slots. What nothing reaches from active, last good and the work in hand is collected.
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
ACTIVE = "active"
LAST_GOOD = "last_good"
COMMITTED = ".committed"
FREE_MARGIN_BYTES = 1 << 20
BALLAST = "ballast"
BALLAST_BYTES = 512 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFile:
    """One file of a slot and the blob that it is."""

    name: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        check_digest(self.digest)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise PackageError(f"a slot's file must have a plain name, not {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """What a slot holds, why this variant, and every blob that it keeps alive."""

    desired: DesiredState
    running: RunningVariant
    choice: tuple[str, ...]
    files: tuple[SlotFile, ...]
    blobs: tuple[str, ...]


class Store:
    """The blobs, slots and links below a state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.partial = root / "blobs" / "partial"
        self._blobs = root / "blobs" / "sha256"
        self._slots = root / "slots"
        self.measuring = root / "measuring"

    def prepare(self) -> None:
        """Make the folders, remove what a kill left half-written, and give up the ballast where the disk is full."""
        if shutil.disk_usage(self.root).free < BALLAST_BYTES:
            (self.root / BALLAST).unlink(missing_ok=True)
        with reporting_full_disk("the store"):
            for folder in (self.partial, self._blobs, self._slots):
                folder.mkdir(parents=True, exist_ok=True)
        half_written = (*self._blobs.glob(".partial-*"), *(self.root / MEASURED).glob(".partial-*"))
        for leftover in (*self._slots.glob(".staging-*"), *self.root.glob(".link-*"), *half_written):
            _remove(leftover)

    def keep_ballast(self) -> None:
        """Take the ballast in again when there is plenty of room."""
        ballast = self.root / BALLAST
        if not ballast.exists() and shutil.disk_usage(self.root).free > FREE_MARGIN_BYTES + BALLAST_BYTES:
            write_atomically(ballast, os.urandom(BALLAST_BYTES))  # random, so that no file system compresses it away

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return where the blob of `digest` lies, whether it is there or not."""
        return self._blobs / _hex(digest)

    def partial_path(self, digest: str) -> Path:
        """Return where the blob of `digest` grows while it is fetched."""
        return self.partial / _hex(digest)

    def has_blob(self, digest: str, size: int) -> bool:
        """Tell whether the blob is here; its bytes were verified when it came in."""
        path = self.blob_path(digest)
        return path.is_file() and path.stat().st_size == size

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a blob, checked again; raise `PackageError` when missing or different."""
        try:
            return check_bytes(self.blob_path(descriptor.digest).read_bytes(), descriptor)
        except FileNotFoundError as missing:
            raise PackageError(f"blob {descriptor.digest} is missing from the device's store") from missing

    def write_blob(self, raw: bytes, descriptor: Descriptor) -> None:
        """Take in a small blob whose bytes are what the descriptor says."""
        check_bytes(raw, descriptor)
        write_atomically(self.blob_path(descriptor.digest), raw)

    def take_in(self, descriptor: Descriptor) -> bool:
        """Move a finished partial among the verified blobs; when its bytes are wrong, remove it and return False."""
        partial = self.partial_path(descriptor.digest)
        found = describe_file(partial, descriptor.mediaType)
        if (found.digest, found.size) != (descriptor.digest, descriptor.size):
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

    def require_room(self, needed_bytes: int) -> None:
        """Raise `StorageFullError` unless the disk has room for `needed_bytes` and a margin."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes + FREE_MARGIN_BYTES:
            raise StorageFullError(
                f"the package needs {needed_bytes + FREE_MARGIN_BYTES} bytes of free disk, but {free} are free: "
                "free some space; the device tries again by itself"
            )

    def drop(self, digests: Iterable[str]) -> None:
        """Remove these blobs, whole or partial, unless a slot holds them: their room is needed for others."""
        held = {digest for record in self._records() for digest in record.blobs}
        for digest in set(digests) - held:
            self.blob_path(digest).unlink(missing_ok=True)
            self.partial_path(digest).unlink(missing_ok=True)

    @contextlib.contextmanager
    def laid_out(self, variants: Mapping[str, Sequence[SlotFile]]) -> Iterator[Path]:
        """Give a folder with a directory per variant, outside of the slots and without bytes of their own, for a while.

        Raises:
            PackageError: a blob is missing.
            StorageFullError: there is no room for a directory.
        """
        _remove(self.measuring)  # of a worker that was killed
        try:
            with reporting_full_disk("what is measured"):
                for name, files in variants.items():
                    (self.measuring / name).mkdir(parents=True)
                    self._link(self.measuring / name, files)
            yield self.measuring
        finally:
            _remove(self.measuring)

    # Slots

    def slot_path(self, desired_number: int) -> Path:
        """Return the folder of a slot, whether it is there or not."""
        return self._slots / str(desired_number)

    def write_slot(self, record: SlotRecord) -> Path:
        """Make the slot of a fetched variant; raise `PackageError` when a blob has gone meanwhile."""
        target = self.slot_path(record.desired.desired_number)
        if self.slot(record.desired.desired_number) == record:
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
        """Return the record of a slot; None when there is no whole slot of that version."""
        return _read_record(self.slot_path(desired_number))

    def mark_committed(self, desired_number: int) -> None:
        """Remember that this slot passed its trial, so that a lost link can find it."""
        write_atomically(self.slot_path(desired_number) / COMMITTED, b"")

    # Links

    def active(self) -> SlotRecord | None:
        """Return what the `active` link points to; None when nothing runs or the link leads nowhere."""
        return _read_record(self.root / ACTIVE)

    def last_good(self) -> SlotRecord | None:
        """Return what the `last_good` link points to."""
        return _read_record(self.root / LAST_GOOD)

    def point(self, link: str, desired_number: int) -> None:
        """Let a link point to a slot, by one rename."""
        with reporting_full_disk("a link"):
            temporary = Path(tempfile.mkdtemp(dir=self.root, prefix=".link-"))
            try:
                (temporary / link).symlink_to(Path("slots") / str(desired_number))
                failpoint(f"{link}.before_rename")
                (temporary / link).replace(self.root / link)
                sync_path(self.root)
                failpoint(f"{link}.after_rename")
            finally:
                _remove(temporary)

    def unpoint(self, link: str) -> None:
        """Remove a link: nothing is active, or nothing good is known."""
        (self.root / link).unlink(missing_ok=True)
        sync_path(self.root)

    def repair_links(self) -> tuple[str, ...]:
        """Point lost links to the newest committed slot again; return what was repaired, in words."""
        committed = [record for record in self._records() if (self._path_of(record) / COMMITTED).is_file()]
        repaired = []
        for link, found in ((LAST_GOOD, self.last_good()), (ACTIVE, self.active())):
            if found is None and committed:
                version = committed[-1].desired.desired_number
                self.point(link, version)
                repaired.append(f"{link} was lost and points to slot {version} again")
        return tuple(repaired)

    def collect(self) -> int:
        """Remove slots, blobs and partials that neither link reaches; return how many bytes came free."""
        kept = [record for record in (self.active(), self.last_good()) if record is not None]
        versions = {str(record.desired.desired_number) for record in kept}
        blobs = {_hex(digest) for record in kept for digest in record.blobs}
        failpoint("collect.before_unlink")
        unreached = [path for path in self._slots.iterdir() if path.name not in versions]
        unreached += [path for path in self._blobs.iterdir() if path.name not in blobs]
        unreached += [*self.partial.iterdir(), self.measuring]
        freed = sum(path.stat().st_size for path in unreached if path.is_file())
        for path in unreached:
            _remove(path)
        return freed

    def _fill(self, staging: Path, record: SlotRecord) -> None:
        self._link(staging, record.files)
        write_atomically(staging / SLOT_FILE, wire.encode(record))

    def _link(self, folder: Path, files: Sequence[SlotFile]) -> None:
        for file in files:
            if not self.has_blob(file.digest, file.size):
                raise PackageError(f"blob {file.digest} is missing from the device's store: it is fetched again")
            os.link(self.blob_path(file.digest), folder / file.name)

    def _records(self) -> list[SlotRecord]:
        found = (_read_record(path) for path in self._slots.iterdir() if path.name.isdigit())
        return sorted((record for record in found if record), key=lambda record: record.desired.desired_number)

    def _path_of(self, record: SlotRecord) -> Path:
        return self.slot_path(record.desired.desired_number)


def _read_record(slot: Path) -> SlotRecord | None:
    """Read a slot's record; a slot that lacks a file is as good as none."""
    try:
        record = wire.decode((slot / SLOT_FILE).read_bytes(), SlotRecord, what=str(slot / SLOT_FILE), error=PackageError)
    except (OSError, PackageError):
        return None
    whole = all((slot / file.name).is_file() and (slot / file.name).stat().st_size == file.size for file in record.files)
    return record if whole else None


def _hex(digest: str) -> str:
    return check_digest(digest).removeprefix("sha256:")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
