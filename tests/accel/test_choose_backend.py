"""The choice of `auto`, its cache and its explanation; test_benchmark.py covers the measurement."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from accel.backends import choose
from accel.backends.backend import Backend, Session
from accel.backends.benchmark import Candidate
from accel.backends.choose import backend_versions, explain, find_fastest, load_session
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import ModelError, NotFoundError, OperationError
from tests.support.tiny_variants import make_config, make_variant, tiny_samples


class Named:
    """An onnxruntime backend with another name."""

    def __init__(self, name: str = "slow", reason: str | None = None) -> None:
        self.name = name
        self._reason = reason

    def unavailable(self) -> str | None:
        return self._reason

    def runs(self, config: VariantConfig) -> bool:
        return True

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        return NamedSession(OnnxRuntime().load(variant, threads=threads), self.name)


class NamedSession:
    def __init__(self, real: Session, name: str) -> None:
        self.run, self.close, self._name = real.run, real.close, name

    def describe(self) -> dict[str, str]:
        return {"backend": self._name, "version": "1", "threads": "1"}


class KnownBenchmarks:
    """Benchmarks with fixed times by variant and backend; records the candidates."""

    def __init__(self) -> None:
        self.times_ms = {"fp32 on slow": 9.0, "fp32 on onnxruntime": 3.0, "int8 on slow": 2.0, "int8 on onnxruntime": 2.5}
        self.runs: list[list[str]] = []

    def run(self, candidates: Sequence[Candidate], *, threads: int | None) -> dict[Candidate, float]:
        self.runs.append([candidate.name for candidate in candidates])
        return {candidate: self.times_ms[candidate.name] for candidate in candidates if candidate.name in self.times_ms}


BOTH: Sequence[Backend] = (Named(), OnnxRuntime())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> KnownBenchmarks:
    known = KnownBenchmarks()
    monkeypatch.setattr(choose, "benchmark_candidates", known.run)
    return known


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def backend_of(session: Session) -> str:
    return session.describe()["backend"]


def test_auto_loads_a_variant_of_the_installed_backend(variant: VariantDirectory) -> None:
    assert load_session(variant, threads=1).run({"x": tiny_samples(2)})["scores"].shape == (2, 3)


def test_auto_takes_the_faster_backend(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, threads=1, backends=BOTH)) == "onnxruntime"


def test_auto_shows_its_numbers(variant: VariantDirectory) -> None:
    explanation = explain(variant, threads=1, backends=BOTH)
    assert explanation.chosen == "onnxruntime"
    assert explanation.median_ms == {"slow": 9.0, "onnxruntime": 3.0}


def test_a_benchmark_is_cached(variant: VariantDirectory, benchmarks: KnownBenchmarks) -> None:
    first = explain(variant, threads=1, backends=BOTH)
    second = explain(variant, threads=1, backends=BOTH)
    assert (first.cached, second.cached) == (False, True)
    assert second.median_ms == first.median_ms
    assert benchmarks.runs == [["fp32 on slow", "fp32 on onnxruntime"]]


def test_another_config_is_benchmarked_again(variant: VariantDirectory) -> None:
    explain(variant, threads=1, backends=BOTH)
    changed = VariantDirectory.write(variant.path, make_config(size_bytes=4))
    assert not explain(changed, threads=1, backends=BOTH).cached


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut off"),
        pytest.param(b"{}", id="empty"),
        pytest.param(b'{"slow": "fast"}', id="words"),
        pytest.param(b'{"gone": 0.1}', id="a removed backend"),
        pytest.param(b"\xff\xfe", id="not text"),
    ],
)
def test_a_broken_cache_file_is_ignored(variant: VariantDirectory, cache: Path, content: bytes) -> None:
    explain(variant, threads=1, backends=BOTH)
    next(cache.rglob("*.json")).write_bytes(content)
    explanation = explain(variant, threads=1, backends=BOTH)
    assert (explanation.chosen, explanation.cached) == ("onnxruntime", False)


def test_a_home_that_cannot_be_written_only_disables_the_cache(
    variant: VariantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert explain(variant, threads=1, backends=BOTH).chosen == "onnxruntime"


def test_a_user_without_a_home_still_gets_a_backend(variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert explain(variant, threads=1, backends=BOTH).chosen == "onnxruntime"


def test_a_single_candidate_is_not_benchmarked(variant: VariantDirectory, benchmarks: KnownBenchmarks) -> None:
    load_session(variant, threads=1, backends=[Named()])
    assert benchmarks.runs == []


def test_a_backend_whose_benchmark_failed_is_not_chosen(variant: VariantDirectory, benchmarks: KnownBenchmarks) -> None:
    del benchmarks.times_ms["fp32 on onnxruntime"]
    assert backend_of(load_session(variant, threads=1, backends=BOTH)) == "slow"


def test_the_fastest_variant_is_found_in_a_benchmark_of_the_shortlist(
    tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks
) -> None:
    int8 = make_variant(tmp_path / "int8", variant="int8")
    fastest = find_fastest([variant, int8], threads=1, backends=BOTH)
    assert (fastest.variant, fastest.backend) == ("int8", "slow")
    assert fastest.shortlist_ms == {"int8 on slow": 2.0, "fp32 on onnxruntime": 3.0}
    assert benchmarks.runs[-1] == ["int8 on slow", "fp32 on onnxruntime"]


def test_a_much_slower_variant_is_not_on_the_shortlist(
    tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks
) -> None:
    benchmarks.times_ms["fp32 on onnxruntime"] = 3.1
    int8 = make_variant(tmp_path / "int8", variant="int8")
    assert list(find_fastest([variant, int8], threads=1, backends=BOTH).shortlist_ms) == ["int8 on slow"]


def test_the_benchmark_of_the_shortlist_overrides_the_earlier_times(
    tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def different_order(candidates: Sequence[Candidate], *, threads: int | None) -> dict[Candidate, float]:
        if len({candidate.variant.path for candidate in candidates}) > 1:
            benchmarks.times_ms["int8 on slow"] = 3.5
        return benchmarks.run(candidates, threads=threads)

    monkeypatch.setattr(choose, "benchmark_candidates", different_order)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    assert find_fastest([variant, int8], threads=1, backends=BOTH).variant == "fp32"


def test_a_variant_without_a_backend_here_is_excluded(tmp_path: Path, variant: VariantDirectory) -> None:
    foreign = make_variant(tmp_path / "npu", backend="npu", variant="npu")
    fastest = find_fastest([variant, foreign], threads=1, backends=[OnnxRuntime()])
    assert (fastest.variant, list(fastest.explanations)) == ("fp32", ["fp32"])


def test_an_unavailable_backend_is_excluded_with_its_reason(variant: VariantDirectory) -> None:
    explanation = explain(variant, threads=1, backends=[Named(reason="no board answers"), OnnxRuntime()])
    assert explanation.excluded == {"slow": "no board answers"}


def test_a_backend_by_name_is_taken_even_when_slower(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, backend="slow", threads=1, backends=BOTH)) == "slow"


def test_an_unknown_backend_offers_the_nearest(variant: VariantDirectory) -> None:
    with pytest.raises(NotFoundError, match=r"^no backend is called 'onnxrutime'; known: onnxruntime$"):
        load_session(variant, backend="onnxrutime")


def test_loading_with_an_unavailable_backend_reports_the_reason(variant: VariantDirectory) -> None:
    with pytest.raises(OperationError, match=r"^the backend slow cannot be used on this machine: no board answers$"):
        load_session(variant, backend="slow", backends=[Named(reason="no board answers")])


def test_loading_with_a_backend_that_does_not_run_the_variant_reports_the_reason(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="npu")
    with pytest.raises(ModelError, match="onnxruntime does not run fp32 for npu"):
        load_session(foreign, backend="onnxruntime")


def test_the_error_for_a_variant_without_a_backend_has_every_reason(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="unknown")
    with pytest.raises(OperationError, match=r"no backend can run variant fp32 on this machine \(onnxruntime: does not run"):
        load_session(foreign, backends=[OnnxRuntime()])


def test_a_variant_that_cannot_be_loaded_is_excluded_with_its_reason(
    tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(candidates: Sequence[Candidate], *, threads: int | None) -> dict[Candidate, float]:
        if candidates[0].variant.config.variant == "int8":
            raise ModelError("int8: the graph is cut off")
        return benchmarks.run(candidates, threads=threads)

    monkeypatch.setattr(choose, "benchmark_candidates", run)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    fastest = find_fastest([int8, variant], threads=1, backends=BOTH)
    assert (fastest.variant, fastest.best_ms) == ("fp32", {"fp32": 3.0})
    assert fastest.failures == {"int8": "int8: the graph is cut off"}


def test_a_candidate_of_the_shortlist_that_fails_beside_the_others_is_not_the_fastest(
    tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory_for_two(candidates: Sequence[Candidate], *, threads: int | None) -> dict[Candidate, float]:
        if len({candidate.variant.path for candidate in candidates}) > 1:
            del benchmarks.times_ms["int8 on slow"]
        return benchmarks.run(candidates, threads=threads)

    monkeypatch.setattr(choose, "benchmark_candidates", no_memory_for_two)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    fastest = find_fastest([variant, int8], threads=1, backends=BOTH)
    assert (fastest.variant, fastest.best_ms) == ("fp32", {"fp32": 3.0})
    assert fastest.failures == {"int8": "int8 on slow ran alone, but failed beside the other variants"}


def test_ignoring_the_cache_benchmarks_again(tmp_path: Path, variant: VariantDirectory, benchmarks: KnownBenchmarks) -> None:
    int8 = make_variant(tmp_path / "int8", variant="int8")
    find_fastest([variant, int8], threads=1, backends=BOTH)
    benchmarks.times_ms |= {"fp32 on slow": 1.0, "fp32 on onnxruntime": 1.5}
    assert find_fastest([variant, int8], threads=1, backends=BOTH).variant == "int8"
    assert find_fastest([variant, int8], threads=1, backends=BOTH, ignore_cache=True).best_ms == {"fp32": 1.0, "int8": 2.0}


def test_versions_are_those_of_available_backends() -> None:
    versions = backend_versions([Named(reason="no board answers"), OnnxRuntime()])
    assert versions == {"onnxruntime": metadata.version("onnxruntime")}
