"""Fetching: only what is needed, verified before it is used, resumed after a cut, never twice."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from edge_agent.identity.enrolment import enrol
from edge_agent.packages.fetch import fetch
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.workers.orders import FetchOrder, pulled_bytes
from edgewright.contracts.signing import generate_key
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.errors import OperationError, PackageError, SignatureError, StorageFullError, UnreachableError
from tests.support.device_packages import MODEL, Built, Recipe, build
from tests.support.fake_cloud import FakeCloud


@pytest.fixture
def store(tmp_path: Path, cloud: FakeCloud) -> Store:
    """The store of an enrolled device."""
    enrol(tmp_path / "device", token_text=cloud.token(), device=cloud.device, profile="generic-x86-64")
    made = Store(tmp_path / "device")
    made.prepare()
    return made


def pull(store: Store, cloud: FakeCloud, built: Built, version: int = 1, **changes: Any) -> SlotRecord:
    return fetch(FetchOrder(state_directory=str(store.root), desired=cloud.wish(built, version, **changes)))


def blob_of(built: Built, kind: LayerKind, variant: str = "fp32") -> tuple[str, int]:
    blob = built.package.variant(variant).layers[kind]
    return blob.digest, blob.size


def test_a_fetched_variant_makes_a_slot_with_the_bytes_of_the_package(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    record = pull(store, cloud, v1)
    slot = store.write_slot(record)
    weights = v1.layout.blob_path(blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)[0]).read_bytes()
    assert (slot / "featurizer.weights").read_bytes() == weights
    assert record.choice == ("fp32 is chosen: generic-x86-64 prefers fp32 most.",)
    assert (slot / "featurizer.weights").stat().st_nlink == 2, "a slot must share its bytes with the blobs"


def test_only_the_chosen_variant_is_pulled(store: Store, cloud: FakeCloud, tmp_path: Path) -> None:
    both = build(tmp_path / "both", Recipe(others=(Precision.INT8,)))
    cloud.publish(both, 1)
    record = pull(store, cloud, both)
    others = {layer.digest for layer in both.package.variant("int8").layers.values()} - set(record.blobs)
    assert record.running.variant == "fp32"
    assert len(record.choice) == 2
    assert not others & set(cloud.sent)


def test_what_is_here_already_is_not_pulled_again(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    pull(store, cloud, v1)
    pull(store, cloud, v2, 2)
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    assert cloud.sent[digest] == size


def test_a_pull_that_is_cut_again_and_again_goes_on_where_it_was(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.cut_after_bytes = 100_000
    desired = cloud.wish(v1, 1)
    order = FetchOrder(state_directory=str(store.root), desired=desired)
    cuts = 0
    while True:
        try:
            fetch(order)
            break
        except UnreachableError:
            cuts += 1
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    assert cuts == size // 100_000
    assert cloud.sent[digest] == size
    assert pulled_bytes(store, desired.desired_number) == sum(cloud.sent.values())


def test_a_registry_that_ignores_ranges_is_read_from_the_beginning(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError, match="must last"):
        pull(store, cloud, v1)
    cloud.faults.cut_after_bytes, cloud.faults.without_range = None, True
    record = pull(store, cloud, v1)
    assert store.write_slot(record).is_dir()


@pytest.mark.parametrize(
    ("fault", "told"),
    [("corrupt", "its bytes have another digest, 3 times"), ("truncate", "the registry has 262144 bytes of 524288, 3 times")],
)
def test_a_blob_that_comes_wrong_three_times_is_refused_and_thrown_away(
    store: Store, cloud: FakeCloud, v1: Built, fault: str, told: str
) -> None:
    cloud.publish(v1, 1)
    digest, _ = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    setattr(cloud.faults, fault, {digest})
    with pytest.raises(PackageError, match=told):
        pull(store, cloud, v1)
    assert cloud.requests[f"/v2/{MODEL}/blobs/{digest}"] == 3
    assert not store.blob_path(digest).exists()
    assert not store.partial_path(digest).exists()


def test_wrong_bytes_are_counted_across_kills(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    digest, _ = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    store.partial_path(digest).with_name(f"{store.partial_path(digest).name}.tries").write_text("2")
    cloud.faults.corrupt = {digest}
    with pytest.raises(PackageError, match="3 times"):
        pull(store, cloud, v1)
    assert cloud.requests[f"/v2/{MODEL}/blobs/{digest}"] == 1


def test_a_partial_that_a_power_cut_spoiled_is_fetched_anew(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    store.partial_path(digest).write_bytes(b"\0" * 200_000)
    pull(store, cloud, v1)
    assert store.has_blob(digest, size)


def test_signatures_are_found_by_the_fallback_tag_where_the_registry_lacks_the_api(
    store: Store, cloud: FakeCloud, v1: Built
) -> None:
    cloud.publish(v1, 1)
    cloud.faults.without_referrers = True
    assert pull(store, cloud, v1).running.version == 1


def forged(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(1, cloud.publisher).replace(b'"sig":"', b'"sig":"AAAA')


@pytest.mark.parametrize(
    ("envelope", "told"),
    [
        pytest.param(lambda built, _: built.envelope(1, generate_key()), "must be by a trusted key", id="stranger"),
        pytest.param(lambda built, cloud: built.envelope(1, cloud.publisher, valid_s=-1), "expired at", id="expired"),
        pytest.param(lambda built, cloud: built.envelope(2, cloud.publisher), "must be for digits:1", id="version"),
        pytest.param(lambda built, cloud: built.envelope(1, cloud.publisher, name="faces"), "is for faces:1", id="model"),
        pytest.param(forged, "changed or forged", id="forged"),
        pytest.param(lambda *_: b"{}", "signature envelope cannot be read", id="no envelope"),
    ],
)
def test_a_signature_that_does_not_hold_stops_before_anything_of_the_package_is_used(
    store: Store, cloud: FakeCloud, v1: Built, envelope: Any, told: str
) -> None:
    cloud.publish(v1, 1, envelope=envelope(v1, cloud))
    with pytest.raises(SignatureError, match=told):
        pull(store, cloud, v1)
    assert not {variant.descriptor.digest for variant in v1.package.variants} & set(cloud.sent)


def test_an_unsigned_package_is_refused(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    cloud._referrers.clear()
    with pytest.raises(SignatureError, match="digits:1 must be signed, but the registry has no signature for it"):
        pull(store, cloud, v1)


def test_the_signature_of_another_package_does_not_count(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1, envelope=v2.envelope(1, cloud.publisher))
    with pytest.raises(SignatureError, match="the signature is of another package"):
        pull(store, cloud, v1)


def test_one_good_signature_among_bad_ones_is_enough(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1, envelope=v1.envelope(1, generate_key()))
    cloud.publish(v1, 1)
    assert pull(store, cloud, v1).running.index_digest == v1.package.digest


def test_a_package_without_a_variant_for_this_hardware_is_refused_with_every_reason(
    tmp_path: Path, cloud: FakeCloud, v1: Built
) -> None:
    enrol(tmp_path / "device", token_text=cloud.token(), device=cloud.device, profile="npu-sim-4")
    store = Store(tmp_path / "device")
    store.prepare()
    cloud.publish(v1, 1)
    with pytest.raises(PackageError, match="fp32 does not fit: it needs the backend onnxruntime"):
        pull(store, cloud, v1)


def test_without_room_nothing_is_pulled(store: Store, cloud: FakeCloud, v1: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.publish(v1, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 1_500_000))
    with pytest.raises(StorageFullError, match=r"the package needs \d+ bytes of free disk, but 1500000 are free"):
        pull(store, cloud, v1)
    assert cloud.sent[blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)[0]] == 0


def test_a_registry_that_fails_is_told_with_its_own_line(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.fail_status = 503
    with pytest.raises(OperationError, match="answered 503: the store is closed"):
        pull(store, cloud, v1)


def test_a_cloud_that_is_not_there_is_unreachable(store: Store, cloud: FakeCloud, v1: Built) -> None:
    desired = cloud.wish(v1, 1)
    cloud.stop()
    with pytest.raises(UnreachableError, match="the registry must answer at"):
        fetch(FetchOrder(state_directory=str(store.root), desired=desired))


def test_another_cloud_at_the_same_address_is_not_believed(store: Store, cloud: FakeCloud, v1: Built, tmp_path: Path) -> None:
    desired = cloud.wish(v1, 1)
    cloud.stop()
    impostor = FakeCloud(tmp_path / "impostor", port=cloud.port)
    impostor.publish(v1, 1)
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        fetch(FetchOrder(state_directory=str(store.root), desired=desired))
    impostor.stop()
