"""The store: atomic changes, restored links, and removal of unreachable files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.storage.links import ACTIVE, LAST_GOOD, Links, linked_records
from edge_agent.storage.store import SlotFile, SlotRecord, Store
from edgewright.contracts import wire
from edgewright.contracts.messages import RunningVariant
from edgewright.contracts.oci import Descriptor, descriptor_of
from edgewright.errors import PackageError, StorageFullError
from tests.edge_agent.conftest import FILLER, fill_disk
from tests.edge_agent.deployment.test_plan import desired


@pytest.fixture
def store(tmp_path: Path) -> Store:
    created = Store(tmp_path)
    created.prepare()
    return created


@pytest.fixture
def links(store: Store) -> Links:
    return Links(store, "digits")


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
    created = record(version, *blobs)
    store.write_slot(created)
    store.mark_committed(version)
    return created


def test_a_blob_with_other_bytes_is_not_added(store: Store) -> None:
    blob = descriptor_of(b"right", "text/plain")
    with pytest.raises(PackageError):
        store.write_blob(b"wrong", blob)
    store.partial_path(blob.digest).write_bytes(b"wrong")
    assert store.add_download(blob) is False
    assert not store.has_blob(blob.digest, blob.size)
    assert not store.partial_path(blob.digest).exists()


def test_a_slot_with_a_missing_blob_is_not_created(store: Store) -> None:
    with pytest.raises(PackageError, match="is missing from the device's store"):
        store.write_slot(record(5, descriptor_of(b"nowhere", "text/plain")))
    assert list((store.root / "slots").iterdir()) == []


def test_a_slot_without_one_of_its_files_is_incomplete_and_is_created_again(store: Store) -> None:
    created = commit(store, 5, add_blob(store, b"weights"))
    (store.slot_path(5) / "file0").unlink()
    assert store.slot(5) is None
    store.write_slot(created)
    assert store.slot(5) == created


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", ""])
def test_a_file_name_that_leads_out_of_the_slot_is_rejected(name: str) -> None:
    with pytest.raises(PackageError, match="plain name"):
        SlotFile(name=name, digest=wire.digest_of(b""), size=0)


def test_a_link_points_to_the_slot_that_was_set_last(store: Store, links: Links) -> None:
    first, second = commit(store, 5, add_blob(store, b"a")), commit(store, 6, add_blob(store, b"b"))
    links.set_link(ACTIVE, 5)
    assert links.active() == first
    links.set_link(ACTIVE, 6)
    assert (links.active(), links.last_good()) == (second, None)


@pytest.mark.parametrize("damage", ["removed", "dangling"])
def test_lost_links_are_restored_to_the_newest_committed_slot(store: Store, links: Links, damage: str) -> None:
    commit(store, 5, add_blob(store, b"a"))
    newest = commit(store, 6, add_blob(store, b"b"))
    store.write_slot(record(7, add_blob(store, b"not committed")))
    for link in (ACTIVE, LAST_GOOD):
        links.set_link(link, 6)
        (store.root / "workloads" / "digits" / link).unlink()
        if damage == "dangling":
            (store.root / "workloads" / "digits" / link).symlink_to("../../slots/99")
    assert len(links.repair()) == 2
    assert (links.active(), links.last_good()) == (newest, newest)


def test_valid_links_are_not_repaired(store: Store, links: Links) -> None:
    commit(store, 5, add_blob(store, b"a"))
    commit(store, 6, add_blob(store, b"b"))
    links.set_link(ACTIVE, 5)
    links.set_link(LAST_GOOD, 5)
    assert links.repair() == ()


def test_only_unreachable_files_are_collected(store: Store, links: Links) -> None:
    shared, old, new, lost = (add_blob(store, raw) for raw in (b"shared", b"old", b"new", b"lost"))
    commit(store, 4, lost)
    commit(store, 5, shared, old)
    commit(store, 6, shared, new)
    links.set_link(LAST_GOOD, 5)
    links.set_link(ACTIVE, 6)
    store.partial_path(wire.digest_of(b"partial")).write_bytes(b"part")
    assert store.collect(linked_records(store)) == len(b"lost") + len(b"part")
    assert store.slot(4) is None
    assert all(store.has_blob(blob.digest, blob.size) for blob in (shared, old, new))
    assert not store.has_blob(lost.digest, lost.size)


def test_blobs_are_removed_unless_a_slot_uses_them(store: Store) -> None:
    used, whole = add_blob(store, b"used"), add_blob(store, b"whole")
    commit(store, 5, used)
    incomplete = wire.digest_of(b"incomplete")
    store.partial_path(incomplete).write_bytes(b"beg")
    store.remove_blobs([used.digest, whole.digest, incomplete])
    assert store.has_blob(used.digest, used.size)
    assert not store.has_blob(whole.digest, whole.size)
    assert not store.partial_path(incomplete).exists()


def test_linked_variants_share_their_bytes_and_are_removed_afterwards(store: Store) -> None:
    blob = add_blob(store, b"weights")
    (store.measuring / "int8").mkdir(parents=True)  # left by a killed worker
    with store.variants_linked({"fp32": (SlotFile(name="graph.onnx", digest=blob.digest, size=blob.size),)}) as folder:
        assert [path.name for path in folder.iterdir()] == ["fp32"]
        assert (folder / "fp32" / "graph.onnx").samefile(store.blob_path(blob.digest))
    assert not store.measuring.exists()
    assert store.has_blob(blob.digest, blob.size)


def test_linked_variants_of_a_killed_worker_are_collected(store: Store) -> None:
    (store.measuring / "int8").mkdir(parents=True)
    store.collect(linked_records(store))
    assert not store.measuring.exists()


def test_incomplete_files_of_a_killed_agent_are_removed_at_the_start(store: Store) -> None:
    leftovers = [store.root / "slots" / ".staging-x", store.root / ".link-y", store.root / "measured" / ".partial-z"]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "file").touch()
    store.prepare()
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_full_disk_leaves_no_incomplete_file_and_keeps_the_links(tiny_disk: Path) -> None:
    store = Store(tiny_disk)
    store.prepare()
    links = Links(store, "digits")
    created = commit(store, 5, add_blob(store, b"a"))
    links.set_link(ACTIVE, 5)
    fill_disk(tiny_disk)
    with pytest.raises(StorageFullError):
        add_blob(store, b"x" * 10_000)
    with pytest.raises(StorageFullError):
        store.write_slot(record(6, descriptor_of(b"a", "text/plain")))
    with pytest.raises(StorageFullError, match="bytes of free disk"):
        store.require_space(10_000)
    assert links.active() == created
    assert [path.name for path in (tiny_disk / "slots").iterdir()] == ["5"]
    (tiny_disk / FILLER).unlink()
    assert store.write_slot(record(6, descriptor_of(b"a", "text/plain"))).is_dir()
