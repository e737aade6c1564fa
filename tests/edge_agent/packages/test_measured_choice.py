"""Choice by measuring: the fastest variant is chosen, all variants are pulled only once, and failures do not stop the update."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.identity.enrolment import enrol
from edge_agent.packages import measure
from edge_agent.packages.fetch import fetch
from edge_agent.settings import ChooseBy
from edge_agent.storage.links import ACTIVE, Links, linked_records
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.storage.variant_times import load_all
from edge_agent.workers.requests import FetchRequest
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.errors import StorageFullError, UnreachableError
from tests.support.device_packages import Built, Recipe, build
from tests.support.fake_cloud import FakeCloud

TWO = Recipe(others=(Precision.INT8,), slow=("fp32",))
BY_PROFILE = "fp32 is chosen: generic-x86-64 prefers fp32 most."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path, cloud: FakeCloud) -> Store:
    """The store of an enrolled device, whose profile prefers fp32."""
    enrol(tmp_path / "device", token_text=cloud.token(), device=cloud.device, profile="generic-x86-64")
    prepared = Store(tmp_path / "device")
    prepared.prepare()
    return prepared


@pytest.fixture(scope="module")
def slow_fp32(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A package whose slow variant is preferred by the profile."""
    return build(tmp_path_factory.mktemp("slow_fp32"), TWO)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same package with another head."""
    return build(tmp_path_factory.mktemp("retrained"), Recipe(head_seed=2, others=TWO.others, slow=TWO.slow))


def request_for(store: Store, cloud: FakeCloud, built: Built, version: int = 1, **changes: Any) -> FetchRequest:
    settings = {"choose": ChooseBy.MEASURED, "backend": "onnxruntime", "threads": 1, **changes}
    return FetchRequest(state_directory=str(store.root), desired=cloud.set_desired(built, version), **settings)


def pull(store: Store, cloud: FakeCloud, built: Built, version: int = 1, **changes: Any) -> SlotRecord:
    cloud.publish(built, version)
    return fetch(request_for(store, cloud, built, version, **changes))


def graph_of(built: Built, variant: str) -> str:
    return built.package.variant(variant).layers[LayerKind.GRAPH].digest


def blank_times(sentences: tuple[str, ...]) -> list[str]:
    return [re.sub(r"\d+\.\d+ ms", "T", sentence) for sentence in sentences]


@pytest.fixture
def no_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call any measurement fails the test."""

    def forbid() -> None:
        monkeypatch.setattr(measure, "find_fastest", lambda *_, **__: pytest.fail("a variant was measured"))

    return forbid


def test_the_fastest_variant_is_chosen_although_the_profile_prefers_another(
    store: Store, cloud: FakeCloud, slow_fp32: Built
) -> None:
    record = pull(store, cloud, slow_fp32)
    assert record.running.variant == "int8"
    assert blank_times(record.choice) == [
        "fp32 fits, but int8 was measured faster here (T against T).",
        "int8 is chosen: measured fastest here, T; fp32 T.",
    ]


def test_for_the_next_version_only_the_fastest_variant_is_pulled(
    store: Store, cloud: FakeCloud, slow_fp32: Built, retrained: Built, no_benchmark: Callable[[], None]
) -> None:
    store.write_slot(pull(store, cloud, slow_fp32))
    Links(store, "digits").set_link(ACTIVE, 1)
    store.collect(linked_records(store))
    assert not store.blob_path(graph_of(slow_fp32, "fp32")).exists(), "the other variant must be removed"
    no_benchmark()
    cloud.sent.clear()
    record = pull(store, cloud, retrained, 2)
    assert record.running.variant == "int8"
    assert blank_times(record.choice) == [
        "fp32 fits, but int8 was measured faster here with version 1 (T against T).",
        "int8 is chosen: measured fastest here with version 1, T; fp32 T.",
    ]
    head = retrained.package.variant("int8").layers[LayerKind.HEAD_WEIGHTS]
    assert (cloud.sent[head.digest], cloud.sent[graph_of(retrained, "fp32")]) == (head.size, 0)


def test_a_single_fitting_variant_is_not_measured(
    store: Store, cloud: FakeCloud, v1: Built, no_benchmark: Callable[[], None]
) -> None:
    no_benchmark()
    assert pull(store, cloud, v1).choice == (BY_PROFILE,)


def test_a_variant_that_cannot_be_loaded_is_excluded_with_its_reason(store: Store, cloud: FakeCloud, tmp_path: Path) -> None:
    record = pull(store, cloud, build(tmp_path / "broken", Recipe(others=(Precision.INT8,), broken=("fp32",))))
    assert record.running.variant == "int8"
    assert blank_times(record.choice) == [
        "fp32 fits, but could not be measured here: fp32/graph.onnx is not an ONNX graph that onnxruntime can load: "
        "Protobuf parsing failed.",
        "int8 is chosen: measured fastest here, T.",
    ]


def test_a_variant_with_wrong_bytes_is_excluded_with_its_reason(store: Store, cloud: FakeCloud, slow_fp32: Built) -> None:
    cloud.faults.corrupt = {graph_of(slow_fp32, "int8")}
    record = pull(store, cloud, slow_fp32)
    assert record.running.variant == "fp32"
    assert record.choice[1].startswith("int8 fits, but could not be measured here: blob sha256:")


def test_if_no_variant_can_be_measured_the_profile_decides_and_the_reason_is_given(
    store: Store, cloud: FakeCloud, tmp_path: Path
) -> None:
    broken = build(tmp_path / "broken", Recipe(others=(Precision.INT8,), broken=("fp32", "int8")))
    record = pull(store, cloud, broken)
    assert record.running.variant == "fp32"
    assert record.choice[0].startswith(f"{BY_PROFILE} Nothing was measured: fp32/graph.onnx is not an ONNX graph")
    assert "int8/graph.onnx is not an ONNX graph" in record.choice[0]
    assert load_all(store.root) == ()


def test_the_reason_is_given_if_the_agent_stopped_measuring(
    store: Store, cloud: FakeCloud, slow_fp32: Built, no_benchmark: Callable[[], None]
) -> None:
    no_benchmark()
    record = pull(store, cloud, slow_fp32, choose=ChooseBy.PROFILE, why_unmeasured="3 attempts failed")
    assert record.choice[0] == f"{BY_PROFILE} Nothing was measured: 3 attempts failed."


def free_bytes(monkeypatch: pytest.MonkeyPatch, values: Iterator[int]) -> None:
    """Let the disk have these numbers of free bytes, one per call."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, next(values)))


def space_for(*blobs: int) -> int:
    return sum(blobs) + (1 << 20)


def sizes(built: Built, variant: str) -> dict[str, int]:
    return {layer.digest: layer.size for layer in built.package.variant(variant).layers.values()}


def test_without_space_for_all_the_profile_decides_and_the_others_are_not_pulled(
    store: Store, cloud: FakeCloud, slow_fp32: Built, monkeypatch: pytest.MonkeyPatch, no_benchmark: Callable[[], None]
) -> None:
    no_benchmark()
    one, all_of_them = sizes(slow_fp32, "fp32"), sizes(slow_fp32, "fp32") | sizes(slow_fp32, "int8")
    free_bytes(monkeypatch, iter([space_for(*all_of_them.values()) - 1, space_for(*one.values())]))
    record = pull(store, cloud, slow_fp32)
    needed = sum(all_of_them.values())
    reason = f"Nothing was measured: the disk has no space for the {needed} bytes of all variants that fit."
    assert record.choice[0] == f"{BY_PROFILE} {reason}"
    assert cloud.sent[graph_of(slow_fp32, "int8")] == 0


def test_if_the_disk_fills_up_meanwhile_the_others_are_removed_for_the_chosen_one(
    store: Store, cloud: FakeCloud, slow_fp32: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = 1 << 30
    store.partial_path(graph_of(slow_fp32, "int8")).write_bytes(b"partial")
    free_bytes(monkeypatch, iter([plenty, plenty, 0, plenty]))
    record = pull(store, cloud, slow_fp32)
    assert record.running.variant == "fp32"
    assert store.write_slot(record).is_dir()
    assert not store.partial_path(graph_of(slow_fp32, "int8")).exists()


def test_without_space_for_one_variant_the_device_waits(
    store: Store, cloud: FakeCloud, slow_fp32: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, iter([0, 0]))
    with pytest.raises(StorageFullError, match="bytes of free disk, but 0 are free"):
        pull(store, cloud, slow_fp32)


def test_a_pull_of_all_variants_continues_after_a_lost_connection(store: Store, cloud: FakeCloud, slow_fp32: Built) -> None:
    cloud.publish(slow_fp32, 1)
    request = request_for(store, cloud, slow_fp32)
    cloud.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError):
        fetch(request)
    cloud.faults.cut_after_bytes = None
    assert fetch(request).running.variant == "int8"
    assert {cloud.sent[digest] / size for digest, size in sizes(slow_fp32, "fp32").items()} == {1.0}
