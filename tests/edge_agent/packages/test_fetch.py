"""Fetching: only missing blobs, verified before use, continued after a lost connection, never pulled twice."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from edge_agent.identity.enrolment import enrol
from edge_agent.packages.fetch import fetch
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.workers.requests import FetchRequest, pulled_bytes
from edgewright.contracts.environments.file_layers import place_of
from edgewright.contracts.signing import generate_key
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.errors import OperationError, PackageError, SignatureError, StorageFullError, UnreachableError
from tests.support.device_packages import MODEL, Built, Recipe, build
from tests.support.fake_cloud import FakeCloud


def pull(store: Store, cloud: FakeCloud, built: Built, version: int = 1, **changes: Any) -> SlotRecord:
    return fetch(FetchRequest(state_directory=str(store.root), desired=cloud.set_desired(built, version, **changes)))


def blob_of(built: Built, kind: LayerKind, variant: str = "fp32") -> tuple[str, int]:
    blob = built.package.variant(variant).layers[kind]
    return blob.digest, blob.size


def test_the_slot_of_a_fetched_variant_has_the_bytes_of_the_package(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    record = pull(store, cloud, v1)
    slot = store.write_slot(record)
    weights = v1.read(v1.package.variant("fp32").layers[LayerKind.FEATURIZER_WEIGHTS])
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


def test_a_stored_blob_is_not_pulled_again(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    pull(store, cloud, v1)
    pull(store, cloud, v2, 2)
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    assert cloud.sent[digest] == size


def test_a_pull_continues_after_repeated_cuts(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.cut_after_bytes = 100_000
    desired = cloud.set_desired(v1, 1)
    request = FetchRequest(state_directory=str(store.root), desired=desired)
    cuts = 0
    while True:
        try:
            fetch(request)
            break
        except UnreachableError:
            cuts += 1
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    assert cuts == size // 100_000
    assert cloud.sent[digest] == size
    assert pulled_bytes(store, desired.desired_number) == sum(cloud.sent.values())


def test_from_a_registry_without_ranges_a_blob_is_pulled_from_the_beginning(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError, match="was interrupted"):
        pull(store, cloud, v1)
    cloud.faults.cut_after_bytes, cloud.faults.without_range = None, True
    record = pull(store, cloud, v1)
    assert store.write_slot(record).is_dir()


@pytest.mark.parametrize(
    ("fault", "message"),
    [("corrupt", "its bytes have another digest, 3 times"), ("truncate", "the registry has 262144 bytes of 524288, 3 times")],
)
def test_a_blob_with_wrong_bytes_three_times_is_refused_and_deleted(
    store: Store, cloud: FakeCloud, v1: Built, fault: str, message: str
) -> None:
    cloud.publish(v1, 1)
    file = v1.package.variant("fp32").layers[LayerKind.FEATURIZER_WEIGHTS]
    digest = file.digest
    setattr(cloud.faults, fault, {digest})
    with pytest.raises(PackageError, match=message):
        pull(store, cloud, v1)
    assert cloud.requests[f"/v2/{MODEL}/blobs/{place_of(file)[0]}"] == 3
    assert not store.blob_path(digest).exists()
    assert not store.partial_path(digest).exists()


def test_pulls_with_wrong_bytes_are_counted_across_kills(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    file = v1.package.variant("fp32").layers[LayerKind.FEATURIZER_WEIGHTS]
    digest = file.digest
    store.partial_path(digest).with_name(f"{store.partial_path(digest).name}.tries").write_text("2")
    cloud.faults.corrupt = {digest}
    with pytest.raises(PackageError, match="3 times"):
        pull(store, cloud, v1)
    assert cloud.requests[f"/v2/{MODEL}/blobs/{place_of(file)[0]}"] == 1


def test_a_download_damaged_by_a_power_cut_is_pulled_again(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    digest, size = blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)
    store.partial_path(digest).write_bytes(b"\0" * 200_000)
    pull(store, cloud, v1)
    assert store.has_blob(digest, size)


def test_signatures_are_found_by_the_fallback_tag_without_the_referrers_api(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.without_referrers = True
    assert pull(store, cloud, v1).running.version == 1


def forged(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(1, cloud.publisher).replace(b'"sig":"', b'"sig":"AAAA')


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        pytest.param(lambda built, _: built.envelope(1, generate_key()), "must be by a trusted key", id="another key"),
        pytest.param(lambda built, cloud: built.envelope(1, cloud.publisher, valid_s=-1), "expired at", id="expired"),
        pytest.param(lambda built, cloud: built.envelope(2, cloud.publisher), "must be for digits:1", id="version"),
        pytest.param(lambda built, cloud: built.envelope(1, cloud.publisher, name="faces"), "is for faces:1", id="model"),
        pytest.param(forged, "one of them was changed", id="forged"),
        pytest.param(lambda *_: b"{}", "signature envelope cannot be read", id="not an envelope"),
    ],
)
def test_an_invalid_signature_stops_the_fetch_before_the_package_is_used(
    store: Store, cloud: FakeCloud, v1: Built, envelope: Any, message: str
) -> None:
    cloud.publish(v1, 1, envelope=envelope(v1, cloud))
    with pytest.raises(SignatureError, match=message):
        pull(store, cloud, v1)
    assert not {variant.descriptor.digest for variant in v1.package.variants} & set(cloud.sent)


def test_an_unsigned_package_is_refused(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    cloud._referrers.clear()
    with pytest.raises(SignatureError, match="digits:1 must be signed, but the registry has no signature for it"):
        pull(store, cloud, v1)


def test_the_signature_of_another_package_is_rejected(store: Store, cloud: FakeCloud, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1, envelope=v2.envelope(1, cloud.publisher))
    with pytest.raises(SignatureError, match="but it is for another package"):
        pull(store, cloud, v1)


def test_one_valid_signature_among_invalid_ones_is_enough(store: Store, cloud: FakeCloud, v1: Built) -> None:
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


def test_without_disk_space_nothing_is_pulled(store: Store, cloud: FakeCloud, v1: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.publish(v1, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 1_500_000))
    with pytest.raises(StorageFullError, match=r"the package needs \d+ bytes of free disk, but 1500000 are free"):
        pull(store, cloud, v1)
    assert cloud.sent[blob_of(v1, LayerKind.FEATURIZER_WEIGHTS)[0]] == 0


def test_a_failure_of_the_registry_is_reported_with_its_message(store: Store, cloud: FakeCloud, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.fail_status = 503
    with pytest.raises(OperationError, match="answered 503: the store is closed"):
        pull(store, cloud, v1)


def test_a_stopped_cloud_is_unreachable(store: Store, cloud: FakeCloud, v1: Built) -> None:
    desired = cloud.set_desired(v1, 1)
    cloud.stop()
    with pytest.raises(UnreachableError, match="cannot connect to the registry at"):
        fetch(FetchRequest(state_directory=str(store.root), desired=desired))


def test_another_cloud_at_the_same_address_is_rejected(store: Store, cloud: FakeCloud, v1: Built, tmp_path: Path) -> None:
    desired = cloud.set_desired(v1, 1)
    cloud.stop()
    other_cloud = FakeCloud(tmp_path / "other_cloud", port=cloud.port)
    other_cloud.publish(v1, 1)
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        fetch(FetchRequest(state_directory=str(store.root), desired=desired))
    other_cloud.stop()
