"""Which backend `auto` takes, what it remembers, and what it says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from accel.backends.backend import Backend, Session, Tensors
from accel.backends.choose import explain, load_session
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import ModelError, NotFoundError, OperationError
from tests.accel.tiny_variants import make_config, make_variant, tiny_samples


class SlowSession:
    """The real session with work added: slower, whatever the machine."""

    def __init__(self, real: Session, backend: SlowBackend) -> None:
        self._real, self._backend = real, backend

    def run(self, inputs: Tensors) -> Tensors:
        self._backend.runs_made += 1
        for _ in range(20):
            self._real.run(inputs)
        return self._real.run(inputs)

    def describe(self) -> dict[str, str]:
        return {"backend": self._backend.name, "version": "1", "threads": "1"}

    def close(self) -> None:
        self._real.close()


class SlowBackend:
    """A second backend that obeys the protocol."""

    name = "slow"

    def __init__(self, reason: str | None = None) -> None:
        self.runs_made = 0
        self._reason = reason

    def unavailable(self) -> str | None:
        return self._reason

    def runs(self, config: VariantConfig) -> bool:
        return True

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        return SlowSession(OnnxRuntime().load(variant, threads=threads), self)


class BrokenBackend(SlowBackend):
    """A backend that promises to run a variant and cannot load it."""

    name = "broken"

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        raise ModelError("this graph has an operator without a kernel")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def backend_of(session: Session) -> str:
    return session.describe()["backend"]


def test_auto_loads_a_variant_of_the_installed_backend(variant: VariantDirectory) -> None:
    assert load_session(variant, threads=1).run({"x": tiny_samples(2)})["scores"].shape == (2, 3)


def test_auto_takes_the_faster_backend(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, threads=1, backends=[SlowBackend(), OnnxRuntime()])) == "onnxruntime"


def test_auto_shows_its_numbers(variant: VariantDirectory) -> None:
    found = explain(variant, threads=1, backends=[SlowBackend(), OnnxRuntime()])
    assert found.chosen == "onnxruntime"
    assert found.median_ms["slow"] > found.median_ms["onnxruntime"] > 0


def test_what_was_measured_is_remembered(variant: VariantDirectory) -> None:
    backends: Sequence[Backend] = [SlowBackend(), OnnxRuntime()]
    first = explain(variant, threads=1, backends=backends)
    second = explain(variant, threads=1, backends=backends)
    assert (first.remembered, second.remembered) == (False, True)
    assert second.median_ms == first.median_ms


def test_another_config_is_measured_anew(variant: VariantDirectory) -> None:
    backends: Sequence[Backend] = [SlowBackend(), OnnxRuntime()]
    explain(variant, threads=1, backends=backends)
    changed = VariantDirectory.write(variant.path, make_config(size_bytes=4))
    assert not explain(changed, threads=1, backends=backends).remembered


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
    backends: Sequence[Backend] = [SlowBackend(), OnnxRuntime()]
    explain(variant, threads=1, backends=backends)
    next(cache.rglob("*.json")).write_bytes(content)
    found = explain(variant, threads=1, backends=backends)
    assert (found.chosen, found.remembered) == ("onnxruntime", False)


def test_a_home_that_cannot_be_written_costs_nothing_but_the_memory(
    variant: VariantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert explain(variant, threads=1, backends=[SlowBackend(), OnnxRuntime()]).chosen == "onnxruntime"


def test_a_user_without_a_home_gets_a_backend_all_the_same(variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert explain(variant, threads=1, backends=[SlowBackend(), OnnxRuntime()]).chosen == "onnxruntime"


def test_with_one_candidate_nothing_is_measured(variant: VariantDirectory) -> None:
    only = SlowBackend()
    load_session(variant, threads=1, backends=[only])
    assert only.runs_made == 0


def test_a_backend_that_fails_to_load_the_variant_is_passed_over(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, threads=1, backends=[BrokenBackend(), OnnxRuntime()])) == "onnxruntime"


def test_a_backend_that_is_not_available_is_no_candidate_and_the_reason_is_told(variant: VariantDirectory) -> None:
    found = explain(variant, threads=1, backends=[SlowBackend("no board answers"), OnnxRuntime()])
    assert found.refused == {"slow": "no board answers"}


def test_a_backend_by_name_is_taken_even_when_slower(variant: VariantDirectory) -> None:
    assert backend_of(load_session(variant, backend="slow", threads=1, backends=[SlowBackend(), OnnxRuntime()])) == "slow"


def test_an_unknown_backend_offers_the_nearest(variant: VariantDirectory) -> None:
    with pytest.raises(NotFoundError, match=r"^no backend is called 'onnxrutime'; known: onnxruntime$"):
        load_session(variant, backend="onnxrutime")


def test_a_backend_by_name_that_cannot_be_used_here_says_why(variant: VariantDirectory) -> None:
    with pytest.raises(OperationError, match=r"^the backend slow cannot be used on this machine: no board answers$"):
        load_session(variant, backend="slow", backends=[SlowBackend("no board answers")])


def test_a_backend_by_name_that_does_not_run_the_variant_says_why(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="npu")
    with pytest.raises(ModelError, match="onnxruntime does not run fp32 for npu"):
        load_session(foreign, backend="onnxruntime")


def test_a_variant_that_nothing_runs_here_names_every_reason(tmp_path: Path) -> None:
    foreign = make_variant(tmp_path / "npu", backend="unknown")
    with pytest.raises(OperationError, match=r"no backend can run variant fp32 on this machine \(onnxruntime: does not run"):
        load_session(foreign, backends=[OnnxRuntime()])
