"""Which backend `auto` takes, what it remembers, and what it says of it; how the times come about is test_contest.py's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from accel.backends import choose
from accel.backends.backend import Backend, Session
from accel.backends.choose import explain, find_fastest, load_session, versions_of
from accel.backends.contest import Entrant
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import ModelError, NotFoundError, OperationError
from tests.support.tiny_variants import make_config, make_variant, tiny_samples


class Named:
    """A backend that obeys the protocol under another name, and runs on onnxruntime."""

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


class Contests:
    """Contests with known times, by variant and backend; remembers who took part."""

    def __init__(self) -> None:
        self.times_ms = {"fp32 on slow": 9.0, "fp32 on onnxruntime": 3.0, "int8 on slow": 2.0, "int8 on onnxruntime": 2.5}
        self.held: list[list[str]] = []

    def hold(self, entrants: Sequence[Entrant], *, threads: int | None) -> dict[Entrant, float]:
        self.held.append([entrant.name for entrant in entrants])
        return {entrant: self.times_ms[entrant.name] for entrant in entrants if entrant.name in self.times_ms}


BOTH: Sequence[Backend] = (Named(), OnnxRuntime())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def contests(monkeypatch: pytest.MonkeyPatch) -> Contests:
    found = Contests()
    monkeypatch.setattr(choose, "hold_contest", found.hold)
    return found


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
    found = explain(variant, threads=1, backends=BOTH)
    assert found.chosen == "onnxruntime"
    assert found.median_ms == {"slow": 9.0, "onnxruntime": 3.0}


def test_what_was_measured_is_remembered(variant: VariantDirectory, contests: Contests) -> None:
    first = explain(variant, threads=1, backends=BOTH)
    second = explain(variant, threads=1, backends=BOTH)
    assert (first.remembered, second.remembered) == (False, True)
    assert second.median_ms == first.median_ms
    assert contests.held == [["fp32 on slow", "fp32 on onnxruntime"]]


def test_another_config_is_measured_anew(variant: VariantDirectory) -> None:
    explain(variant, threads=1, backends=BOTH)
    changed = VariantDirectory.write(variant.path, make_config(size_bytes=4))
    assert not explain(changed, threads=1, backends=BOTH).remembered


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut off"),
        pytest.param(b"{}", id="empty"),
        pytest.param(b'{"slow": "fast"}', id="words"),
        pytest.param(b'{"gone": 0.1}', id="a backend that is gone"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_a_broken_memory_is_ignored(variant: VariantDirectory, cache: Path, content: bytes) -> None:
    explain(variant, threads=1, backends=BOTH)
    next(cache.rglob("*.json")).write_bytes(content)
    found = explain(variant, threads=1, backends=BOTH)
    assert (found.chosen, found.remembered) == ("onnxruntime", False)


def test_a_home_that_cannot_be_written_costs_nothing_but_the_memory(
    variant: VariantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert explain(variant, threads=1, backends=BOTH).chosen == "onnxruntime"


def test_a_user_without_a_home_gets_a_backend_all_the_same(variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert explain(variant, threads=1, backends=BOTH).chosen == "onnxruntime"


def test_with_one_candidate_nothing_is_measured(variant: VariantDirectory, contests: Contests) -> None:
    load_session(variant, threads=1, backends=[Named()])
    assert contests.held == []


def test_a_backend_that_could_not_be_measured_is_passed_over(variant: VariantDirectory, contests: Contests) -> None:
    del contests.times_ms["fp32 on onnxruntime"]
    assert backend_of(load_session(variant, threads=1, backends=BOTH)) == "slow"


def test_the_fastest_variant_is_found_in_a_final_of_the_best(
    tmp_path: Path, variant: VariantDirectory, contests: Contests
) -> None:
    int8 = make_variant(tmp_path / "int8", variant="int8")
    found = find_fastest([variant, int8], threads=1, backends=BOTH)
    assert (found.variant, found.backend) == ("int8", "slow")
    assert found.final_ms == {"int8 on slow": 2.0, "fp32 on onnxruntime": 3.0}
    assert contests.held[-1] == ["int8 on slow", "fp32 on onnxruntime"]


def test_a_variant_that_is_far_behind_takes_no_part_in_the_final(
    tmp_path: Path, variant: VariantDirectory, contests: Contests
) -> None:
    contests.times_ms["fp32 on onnxruntime"] = 3.1
    int8 = make_variant(tmp_path / "int8", variant="int8")
    assert list(find_fastest([variant, int8], threads=1, backends=BOTH).final_ms) == ["int8 on slow"]


def test_the_final_decides_where_it_turns_out_otherwise(
    tmp_path: Path, variant: VariantDirectory, contests: Contests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def final_turns_out_otherwise(entrants: Sequence[Entrant], *, threads: int | None) -> dict[Entrant, float]:
        if len({entrant.variant.path for entrant in entrants}) > 1:
            contests.times_ms["int8 on slow"] = 3.5
        return contests.hold(entrants, threads=threads)

    monkeypatch.setattr(choose, "hold_contest", final_turns_out_otherwise)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    assert find_fastest([variant, int8], threads=1, backends=BOTH).variant == "fp32"


def test_a_variant_that_nothing_here_runs_takes_no_part(tmp_path: Path, variant: VariantDirectory) -> None:
    foreign = make_variant(tmp_path / "npu", backend="npu", variant="npu")
    found = find_fastest([variant, foreign], threads=1, backends=[OnnxRuntime()])
    assert (found.variant, list(found.explanations)) == ("fp32", ["fp32"])


def test_a_backend_that_is_not_available_is_no_candidate_and_the_reason_is_told(variant: VariantDirectory) -> None:
    found = explain(variant, threads=1, backends=[Named(reason="no board answers"), OnnxRuntime()])
    assert found.refused == {"slow": "no board answers"}


def test_a_backend_by_name_is_taken_even_when_slower(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, backend="slow", threads=1, backends=BOTH)) == "slow"


def test_an_unknown_backend_offers_the_nearest(variant: VariantDirectory) -> None:
    with pytest.raises(NotFoundError, match=r"^no backend is called 'onnxrutime'; known: onnxruntime$"):
        load_session(variant, backend="onnxrutime")


def test_a_backend_by_name_that_cannot_be_used_here_says_why(variant: VariantDirectory) -> None:
    with pytest.raises(OperationError, match=r"^the backend slow cannot be used on this machine: no board answers$"):
        load_session(variant, backend="slow", backends=[Named(reason="no board answers")])


def test_a_backend_by_name_that_does_not_run_the_variant_says_why(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="npu")
    with pytest.raises(ModelError, match="onnxruntime does not run fp32 for npu"):
        load_session(foreign, backend="onnxruntime")


def test_a_variant_that_nothing_runs_here_names_every_reason(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="unknown")
    with pytest.raises(OperationError, match=r"no backend can run variant fp32 on this machine \(onnxruntime: does not run"):
        load_session(foreign, backends=[OnnxRuntime()])


def test_a_variant_that_cannot_be_loaded_falls_out_with_its_reason(
    tmp_path: Path, variant: VariantDirectory, contests: Contests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(entrants: Sequence[Entrant], *, threads: int | None) -> dict[Entrant, float]:
        if entrants[0].variant.config.variant == "int8":
            raise ModelError("int8: the graph is cut off")
        return contests.hold(entrants, threads=threads)

    monkeypatch.setattr(choose, "hold_contest", hold)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    found = find_fastest([int8, variant], threads=1, backends=BOTH)
    assert (found.variant, found.best_ms) == ("fp32", {"fp32": 3.0})
    assert found.failures == {"int8": "int8: the graph is cut off"}


def test_a_finalist_that_fails_beside_the_others_is_not_the_fastest(
    tmp_path: Path, variant: VariantDirectory, contests: Contests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory_for_two(entrants: Sequence[Entrant], *, threads: int | None) -> dict[Entrant, float]:
        if len({entrant.variant.path for entrant in entrants}) > 1:
            del contests.times_ms["int8 on slow"]
        return contests.hold(entrants, threads=threads)

    monkeypatch.setattr(choose, "hold_contest", no_memory_for_two)
    int8 = make_variant(tmp_path / "int8", variant="int8")
    found = find_fastest([variant, int8], threads=1, backends=BOTH)
    assert (found.variant, found.best_ms) == ("fp32", {"fp32": 3.0})
    assert found.failures == {"int8": "int8 on slow ran by itself, but failed beside the other variants"}


def test_measured_anew_nothing_remembered_counts(tmp_path: Path, variant: VariantDirectory, contests: Contests) -> None:
    int8 = make_variant(tmp_path / "int8", variant="int8")
    find_fastest([variant, int8], threads=1, backends=BOTH)
    contests.times_ms |= {"fp32 on slow": 1.0, "fp32 on onnxruntime": 1.5}
    assert find_fastest([variant, int8], threads=1, backends=BOTH).variant == "int8"
    assert find_fastest([variant, int8], threads=1, backends=BOTH, anew=True).best_ms == {"fp32": 1.0, "int8": 2.0}


def test_the_versions_are_those_of_what_can_be_used_here() -> None:
    found = versions_of([Named(reason="no board answers"), OnnxRuntime()])
    assert found == {"onnxruntime": metadata.version("onnxruntime")}
