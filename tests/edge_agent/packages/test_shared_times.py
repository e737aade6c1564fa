"""Shared benchmarks from the devices' side: one measurement per kind of machine, small regret, and no trust in others."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.db.database import Database
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from edge_agent.identity.enrolment import enrol
from edge_agent.packages import measure, shared_times
from edge_agent.packages.fetch import fetch
from edge_agent.packages.shared_times import SharedTimes
from edge_agent.settings import ChooseBy
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes
from edge_agent.workers.requests import FetchRequest
from edgewright.contracts import signing, wire
from edgewright.contracts.connection.benchmarks import SHARED_BENCHMARK_TYPE, BenchmarkAnswer, BenchmarkClaim, BenchmarkResult
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.oci import Descriptor
from edgewright.contracts.signing import PrivateKey
from edgewright.contracts.variant import LayerKind, Precision
from tests.support.device_packages import MODEL, Recipe, build
from tests.support.running_cloud import RunningCloud, running
from tests.support.small_packages import SmallPackage, push

TRUE_MS = {
    "arm-a72": {"fp32": 9.0, "int8": 3.0, "int8-arm64": 2.1},
    "arm-a76": {"fp32": 4.0, "int8": 1.22, "int8-arm64": 1.2},
    "x86-avx2": {"fp32": 1.1, "int8": 1.13, "int8-arm64": 2.4},
    "x86-vnni": {"fp32": 1.0, "int8": 0.4, "int8-arm64": 0.9},
}
"""Times of three variants on four kinds of machines, milliseconds; on two kinds the best two differ less than the noise."""
DEVICES_PER_KIND = 10
NOISE = 0.05
"""Largest relative difference between machines of one kind, and between two measurements."""


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return signing.generate_key()


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, key: PrivateKey) -> Iterator[RunningCloud]:
    """A cloud that trusts `key`, without a broker."""
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "publisher.pub").write_text(signing.public_pem(key.public_key()))
    with running(folder / "state", "--no-broker", "--trust", str(folder / "publisher.pub")) as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def enrolled(cloud: RunningCloud, folder: Path, names: list[str], model: str, index: Descriptor) -> dict[str, DesiredState]:
    """Enrol devices, each in a folder of its own, and set their desired state."""
    operator = cloud.operator()
    for name in names:
        token = operator.post("/v1/tokens", {}).json()["token"]
        enrol(folder / name, token_text=token, device=name, profile="generic-x86-64")
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    cloud_key = signing.load_private_key(cloud.state / "cloud.key")
    with database.transaction() as connection:
        spec = DesiredSpec(model=model, version=1, index=index)
        desired = {name: set_desired(connection, cloud_key, name, spec) for name in names}
    database.close()
    return desired


def claim_for(kind: str, model: str = "shared") -> BenchmarkClaim:
    return BenchmarkClaim(model=model, basis=wire.digest_of(kind.encode()), fingerprint=kind)


def times_of(claim: BenchmarkClaim, median_ms: dict[str, float]) -> VariantTimes:
    return VariantTimes(
        model=claim.model,
        version=1,
        measured_at=datetime.now(UTC),
        basis=wire.digest_of(claim.fingerprint.encode()),
        fastest=min(median_ms, key=lambda variant: median_ms[variant]),
        median_ms=median_ms,
        failures={},
    )


def noisy(median_ms: dict[str, float], seed: str) -> dict[str, float]:
    source = random.Random(seed)
    return {variant: each_ms * source.uniform(1 - NOISE, 1 + NOISE) for variant, each_ms in median_ms.items()}


def test_forty_devices_of_four_machines_measure_each_variant_once_per_machine_with_small_regret(
    trusting: RunningCloud, tmp_path: Path
) -> None:
    names = {f"{kind}-{number}": kind for kind in TRUE_MS for number in range(DEVICES_PER_KIND)}
    enrolled(trusting, tmp_path, list(names), "shared", Descriptor(mediaType="text/plain", digest=wire.digest_of(b"i"), size=1))
    measured: Counter[tuple[str, str]] = Counter()

    def choose(name: str) -> str:
        """Choose as a device does: use a shared result, or measure and offer it."""
        kind, shared = names[name], SharedTimes(tmp_path / name, wait_s=300, sleep=lambda _s: None)
        times = shared.find(claim_for(kind), TRUE_MS[kind].keys())
        if times is None:
            measured.update((kind, variant) for variant in TRUE_MS[kind])
            times = times_of(claim_for(kind), noisy(noisy(TRUE_MS[kind], name), f"measured {name}"))
            shared.offer(claim_for(kind), times)
        return times.fastest

    with ThreadPoolExecutor(8) as pool:
        chosen = dict(zip(names, pool.map(choose, names), strict=True))

    assert measured == {(kind, variant): 1 for kind, variants in TRUE_MS.items() for variant in variants}
    own_ms = {name: noisy(TRUE_MS[kind], name) for name, kind in names.items()}
    regrets = [own_ms[name][chosen[name]] / min(own_ms[name].values()) - 1 for name in names]
    assert statistics.fmean(regrets) <= 0.03, regrets


def test_a_device_takes_the_variant_that_another_with_the_same_machine_measured_and_pulls_only_that(
    trusting: RunningCloud, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(tmp_path / "package", Recipe(others=(Precision.INT8,), slow=("fp32",)))
    package = SmallPackage(built.layout, built.package)
    push(trusting.operator(), package, MODEL)
    assert trusting.operator().post(f"/v1/models/{MODEL}/versions", package.signed(key, 1)).status == 201
    desired = enrolled(trusting, tmp_path, ["cam-1", "cam-2"], MODEL, built.package.descriptor)

    def fetched(name: str) -> Any:
        Store(tmp_path / name).prepare()
        return fetch(
            FetchRequest(
                state_directory=str(tmp_path / name),
                desired=desired[name],
                choose=ChooseBy.MEASURED,
                backend="onnxruntime",
                threads=1,
            )
        )

    assert fetched("cam-1").running.variant == "int8"
    monkeypatch.setattr(measure, "find_fastest", lambda *_, **__: pytest.fail("a variant was measured"))
    record = fetched("cam-2")
    assert record.running.variant == "int8"
    assert "measured fastest on cam-1, which has the same machine," in " ".join(record.choice)
    graph = built.package.variant("fp32").layers[LayerKind.GRAPH]
    assert not Store(tmp_path / "cam-2").has_blob(graph.digest, graph.size)
    assert Store(tmp_path / "cam-1").has_blob(graph.digest, graph.size)


@pytest.fixture
def lone(trusting: RunningCloud, tmp_path: Path) -> SharedTimes:
    """The shared benchmarks of a device that is enrolled and has no desired state."""
    token = trusting.operator().post("/v1/tokens", {}).json()["token"]
    name = f"lone-{wire.digest_of(str(tmp_path).encode())[7:15]}"
    enrol(tmp_path / name, token_text=token, device=name, profile="generic-x86-64")
    return SharedTimes(tmp_path / name, wait_s=0)


RESULT = BenchmarkResult(
    device="liar",
    model="shared",
    version=1,
    basis=claim_for("here").basis,
    fingerprint="here",
    measured_at=datetime.now(UTC),
    fastest="fp32",
    median_ms={"fp32": 0.1, "int8": 5.0},
    failures={},
)


@pytest.mark.parametrize(
    ("changed", "is_cloud_key", "is_used"),
    [
        pytest.param(RESULT, True, True, id="signed by the cloud"),
        pytest.param(RESULT, False, False, id="signed by another key"),
        pytest.param(replace(RESULT, basis=claim_for("there").basis), True, False, id="of another machine"),
        pytest.param(replace(RESULT, model="other"), True, False, id="of another model"),
        pytest.param(replace(RESULT, median_ms={"fp32": 0.1}), True, False, id="of other variants"),
    ],
)
def test_a_result_counts_only_if_the_own_cloud_signed_it_for_this_model_machine_and_variants(
    trusting: RunningCloud,
    lone: SharedTimes,
    monkeypatch: pytest.MonkeyPatch,
    changed: BenchmarkResult,
    is_cloud_key: bool,
    is_used: bool,
) -> None:
    key = signing.load_private_key(trusting.state / "cloud.key") if is_cloud_key else signing.generate_key()
    raw = signing.sign(wire.encode(changed), SHARED_BENCHMARK_TYPE, key)
    answer = BenchmarkAnswer(envelope=wire.decode(raw, signing.Envelope, what="envelope"))
    monkeypatch.setattr(SharedTimes, "_send", lambda *_: wire.encode(answer))
    times = lone.find(claim_for("here"), {"fp32", "int8"})
    assert (times is not None) is is_used
    assert times is None or times.measured_by == "liar"


def test_a_device_measures_for_itself_if_the_cloud_shares_nothing_with_it(
    lone: SharedTimes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert lone.find(claim_for("here"), {"fp32", "int8"}) is None
    assert "must name shared before its benchmarks are shared" in caplog.text
    assert caplog.records[-1].name == shared_times.__name__
