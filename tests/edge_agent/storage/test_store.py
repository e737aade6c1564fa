"""The store: whole or not at all, links that are found again, nothing kept that nobody reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.storage.store import ACTIVE, LAST_GOOD, SlotFile, SlotRecord, Store
from edgewright.contracts import wire
from edgewright.contracts.messages import RunningVariant
from edgewright.contracts.oci import Descriptor, descriptor_of
from edgewright.errors import PackageError, StorageFullError
from tests.edge_agent.conftest import FILLER, fill_disk
from tests.edge_agent.deployment.test_plan import desired


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.prepare()
    return made


def add_blob(store: Store, raw: bytes) -> Descriptor:
    blob = descriptor_of(raw, "application/octet-stream")
    store.write_blob(raw, blob)
    return blob


def record(version: int, *blobs: Descriptor) -> SlotRecord:
    running = RunningVariant(
        model="digits",
        version=version,
        index_digest=wire.digest_of(b"index"),
        variant="fp32",
        backend="onnxruntime",
        precision="fp32",
    )
    files = tuple(SlotFile(name=f"file{n}", digest=blob.digest, size=blob.size) for n, blob in enumerate(blobs))
    return SlotRecord(
        desired=desired(version), running=running, choice=(), files=files, blobs=tuple(blob.digest for blob in blobs)
    )


def commit(store: Store, version: int, *blobs: Descriptor) -> SlotRecord:
    made = record(version, *blobs)
    store.write_slot(made)
    store.mark_committed(version)
    return made


def test_a_blob_of_other_bytes_never_comes_in(store: Store) -> None:
    blob = descriptor_of(b"right", "text/plain")
    with pytest.raises(PackageError):
        store.write_blob(b"wrong", blob)
    store.partial_path(blob.digest).write_bytes(b"wrong")
    assert store.take_in(blob) is False
    assert not store.has_blob(blob.digest, blob.size)
    assert not store.partial_path(blob.digest).exists()


def test_a_slot_of_a_missing_blob_is_not_made(store: Store) -> None:
    with pytest.raises(PackageError, match="is missing from the device's store"):
        store.write_slot(record(5, descriptor_of(b"nowhere", "text/plain")))
    assert list((store.root / "slots").iterdir()) == []


def test_a_slot_that_lost_a_file_is_no_slot_and_is_made_again(store: Store) -> None:
    made = commit(store, 5, add_blob(store, b"weights"))
    (store.slot_path(5) / "file0").unlink()
    assert store.slot(5) is None
    store.write_slot(made)
    assert store.slot(5) == made


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", ""])
def test_a_file_name_that_leads_out_of_the_slot_is_no_file_name(name: str) -> None:
    with pytest.raises(PackageError, match="plain name"):
        SlotFile(name=name, digest=wire.digest_of(b""), size=0)


def test_links_point_where_they_were_pointed_last(store: Store) -> None:
    first, second = commit(store, 5, add_blob(store, b"a")), commit(store, 6, add_blob(store, b"b"))
    store.point(ACTIVE, 5)
    assert store.active() == first
    store.point(ACTIVE, 6)
    assert (store.active(), store.last_good()) == (second, None)


@pytest.mark.parametrize("damage", ["removed", "dangling"])
def test_lost_links_are_found_again_from_the_newest_committed_slot(store: Store, damage: str) -> None:
    commit(store, 5, add_blob(store, b"a"))
    newest = commit(store, 6, add_blob(store, b"b"))
    store.write_slot(record(7, add_blob(store, b"never tried")))
    for link in (ACTIVE, LAST_GOOD):
        store.point(link, 6)
        (store.root / link).unlink()
        if damage == "dangling":
            (store.root / link).symlink_to("slots/99")
    assert len(store.repair_links()) == 2
    assert (store.active(), store.last_good()) == (newest, newest)


def test_links_that_are_right_are_left_alone(store: Store) -> None:
    commit(store, 5, add_blob(store, b"a"))
    commit(store, 6, add_blob(store, b"b"))
    store.point(ACTIVE, 5)
    store.point(LAST_GOOD, 5)
    assert store.repair_links() == ()


def test_what_no_link_reaches_is_collected_and_nothing_else(store: Store) -> None:
    shared, old, new, lost = (add_blob(store, raw) for raw in (b"shared", b"old", b"new", b"lost"))
    commit(store, 4, lost)
    commit(store, 5, shared, old)
    commit(store, 6, shared, new)
    store.point(LAST_GOOD, 5)
    store.point(ACTIVE, 6)
    store.partial_path(wire.digest_of(b"partial")).write_bytes(b"part")
    assert store.collect() == len(b"lost") + len(b"part")
    assert store.slot(4) is None
    assert all(store.has_blob(blob.digest, blob.size) for blob in (shared, old, new))
    assert not store.has_blob(lost.digest, lost.size)


def test_what_is_dropped_goes_unless_a_slot_holds_it(store: Store) -> None:
    held, whole = add_blob(store, b"held"), add_blob(store, b"whole")
    commit(store, 5, held)
    begun = wire.digest_of(b"begun")
    store.partial_path(begun).write_bytes(b"beg")
    store.drop([held.digest, whole.digest, begun])
    assert store.has_blob(held.digest, held.size)
    assert not store.has_blob(whole.digest, whole.size)
    assert not store.partial_path(begun).exists()


def test_what_is_laid_out_shares_its_bytes_and_is_gone_afterwards(store: Store) -> None:
    blob = add_blob(store, b"weights")
    (store.measuring / "int8").mkdir(parents=True)  # left by a kill
    with store.laid_out({"fp32": (SlotFile(name="graph.onnx", digest=blob.digest, size=blob.size),)}) as folder:
        assert [path.name for path in folder.iterdir()] == ["fp32"]
        assert (folder / "fp32" / "graph.onnx").samefile(store.blob_path(blob.digest))
    assert not store.measuring.exists()
    assert store.has_blob(blob.digest, blob.size)


def test_what_a_kill_left_laid_out_is_collected(store: Store) -> None:
    (store.measuring / "int8").mkdir(parents=True)
    store.collect()
    assert not store.measuring.exists()


def test_what_a_kill_left_half_written_is_removed_at_the_start(store: Store) -> None:
    leftovers = [store.root / "slots" / ".staging-x", store.root / ".link-y", store.root / "measured" / ".partial-z"]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "file").touch()
    store.prepare()
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_full_disk_leaves_nothing_half_written_and_the_links_as_they_were(tiny_disk: Path) -> None:
    store = Store(tiny_disk)
    store.prepare()
    made = commit(store, 5, add_blob(store, b"a"))
    store.point(ACTIVE, 5)
    fill_disk(tiny_disk)
    with pytest.raises(StorageFullError):
        add_blob(store, b"x" * 10_000)
    with pytest.raises(StorageFullError):
        store.write_slot(record(6, descriptor_of(b"a", "text/plain")))
    with pytest.raises(StorageFullError, match="bytes of free disk"):
        store.require_room(10_000)
    assert store.active() == made
    assert [path.name for path in (tiny_disk / "slots").iterdir()] == ["5"]
    (tiny_disk / FILLER).unlink()
    assert store.write_slot(record(6, descriptor_of(b"a", "text/plain"))).is_dir()
