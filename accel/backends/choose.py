"""Choose a backend: the one that is asked for, or the fastest on this machine.

`auto` measures every backend that can run the variant here, remembers the winner, and can show its numbers (`explain`). With
one candidate there is nothing to measure. What is remembered is bound to the machine, the candidates' versions, the variant's
config and the threads; a file that cannot be read is as good as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path

from accel.backends.backend import Backend, Session
from accel.latency import Latency, measure_latency, synthetic_inputs
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import nearest
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, ModelError, NotFoundError, OperationError, StorageFullError
from hardware_profiles.detect import read_machine

AUTO = "auto"

BACKENDS = {
    "onnxruntime": "accel.backends.onnxruntime_cpu:OnnxRuntime",
    "openvino": "accel.backends.openvino_cpu:OpenVino",
    "openvino-bf16": "accel.backends.openvino_cpu:OpenVinoBf16",
    "npu": "accel.backends.npu_board:Npu",
}
"""Where each backend lives; the module is imported on use."""

_RUNS = 20
_TIME_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Which backend `auto` takes for a variant here, and what it knows."""

    chosen: str
    median_ms: dict[str, float]
    """What each candidate took for one sample."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why the others are no candidates."""
    remembered: bool = False
    """Whether the numbers are from an earlier measurement."""


def load_session(
    variant: VariantDirectory,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    backends: Sequence[Backend] | None = None,
) -> Session:
    """Load `variant` with a backend by name, or with the fastest one for `auto`.

    Raises:
        NotFoundError: no backend has that name.
        OperationError: the backend cannot be used on this machine, or none can run the variant.
        ModelError: the variant's files cannot be loaded, or the backend does not run such variants.
    """
    known = _known(backends)
    named = {candidate.name: candidate for candidate in known}
    if backend == AUTO:
        return named[choose_backend(variant, threads=threads, backends=known)].load(variant, threads=threads)
    if backend not in named:
        raise NotFoundError(f"no backend is called {backend!r}{nearest(backend, [*named, AUTO])}")
    _check_usable(named[backend], variant)
    return named[backend].load(variant, threads=threads)


def choose_backend(variant: VariantDirectory, *, threads: int | None = None, backends: Sequence[Backend] | None = None) -> str:
    """Return the name of the backend that `auto` takes; with one candidate nothing is measured."""
    candidates, refused = _candidates(variant, _known(backends))
    if len(candidates) == 1:
        return candidates[0].name
    return _explain(variant, candidates, refused, threads).chosen


def explain(variant: VariantDirectory, *, threads: int | None = None, backends: Sequence[Backend] | None = None) -> Explanation:
    """Return what `auto` chooses for `variant` and the numbers behind it, measuring where nothing is remembered."""
    candidates, refused = _candidates(variant, _known(backends))
    return _explain(variant, candidates, refused, threads)


def available_backends() -> tuple[Backend, ...]:
    """Return every backend of this installation, whether it can be used here or not."""
    return tuple(_backend(where) for where in BACKENDS.values())


def _known(backends: Sequence[Backend] | None) -> Sequence[Backend]:
    return available_backends() if backends is None else backends


def _backend(where: str) -> Backend:
    module_name, _, attribute = where.partition(":")
    found: Backend = getattr(import_module(module_name), attribute)()
    return found


def _candidates(variant: VariantDirectory, known: Sequence[Backend]) -> tuple[list[Backend], dict[str, str]]:
    refused = {backend.name: reason for backend in known if (reason := _refusal(backend, variant)) is not None}
    candidates = [backend for backend in known if backend.name not in refused]
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise OperationError(f"no backend can run variant {variant.config.variant} on this machine ({reasons})")
    return candidates, refused


def _refusal(backend: Backend, variant: VariantDirectory) -> str | None:
    if not backend.runs(variant.config):
        return f"does not run {variant.config.precision} for {variant.config.backend}"
    return backend.unavailable()


def _check_usable(backend: Backend, variant: VariantDirectory) -> None:
    if not backend.runs(variant.config):
        raise ModelError(f"{variant.path}: {backend.name} {_refusal(backend, variant)}; use --backend {AUTO}")
    reason = backend.unavailable()
    if reason is not None:
        raise OperationError(f"the backend {backend.name} cannot be used on this machine: {reason}")


def _explain(
    variant: VariantDirectory, candidates: Sequence[Backend], refused: dict[str, str], threads: int | None
) -> Explanation:
    remembered = _cache_file(variant, candidates, threads)
    found = None if remembered is None else _recall(remembered, {candidate.name for candidate in candidates})
    if found is not None:
        return Explanation(chosen=_fastest(found), median_ms=found, refused=refused, remembered=True)
    found = _measure_all(variant, candidates, threads)
    if remembered is not None:
        with contextlib.suppress(OSError, StorageFullError):  # a read-only or full home costs a measurement, nothing else
            write_atomically(remembered, wire.encode(found))
    return Explanation(chosen=_fastest(found), median_ms=found, refused=refused)


def _measure_all(variant: VariantDirectory, candidates: Sequence[Backend], threads: int | None) -> dict[str, float]:
    """Measure each candidate; one that fails to load or run is left out, unless all do."""
    found: dict[str, float] = {}
    failures: list[EdgewrightError] = []
    for candidate in candidates:
        try:
            found[candidate.name] = _measure(variant, candidate, threads).median_ms
        except EdgewrightError as failed:
            failures.append(failed)
    if not found:
        raise failures[0]
    return found


def _measure(variant: VariantDirectory, candidate: Backend, threads: int | None) -> Latency:
    session = candidate.load(variant, threads=threads)
    try:
        inputs = synthetic_inputs(variant.config.inputs, batch=1)
        return measure_latency(lambda: session.run(inputs), runs=_RUNS, time_limit_s=_TIME_LIMIT_S)
    finally:
        session.close()


def _fastest(median_ms: dict[str, float]) -> str:
    return min(median_ms, key=lambda name: (median_ms[name], name))


def _recall(path: Path, candidates: set[str]) -> dict[str, float] | None:
    try:
        found = wire.decode(path.read_bytes(), dict[str, float], what=str(path))
    except (OSError, EdgewrightError):
        return None
    return found if found and set(found) <= candidates else None


def _cache_file(variant: VariantDirectory, candidates: Sequence[Backend], threads: int | None) -> Path | None:
    """Return where the numbers of this machine, these candidates and this variant are kept; None for a user without a home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    machine = read_machine()
    key = wire.encode(
        {
            "machine": [machine.architecture, machine.cpu_model, machine.cpu_cores, sorted(machine.isa_extensions)],
            "candidates": {candidate.name: _version(candidate.name) for candidate in candidates},
            "config": wire.digest_of(wire.encode(variant.config)),
            "threads": threads,
        }
    )
    return home / "edgewright" / "auto" / f"{wire.digest_of(key).removeprefix('sha256:')}.json"


def _version(backend: str) -> str:
    """Return the version of the distribution that a backend is named after, else our own."""
    try:
        return metadata.version(backend)
    except metadata.PackageNotFoundError:
        return __version__
