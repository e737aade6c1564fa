"""Choose a backend, by name or the fastest on this machine, and choose the fastest of several variants.

`auto` benchmarks every backend that can run the variant here (benchmark.py), caches the times and can show them (`explain`). A
single candidate is not benchmarked. A cache entry belongs to one machine, the versions of the candidates, the configs of the
variants and the number of threads; an unreadable entry is ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path

from accel.backends.backend import Backend, Session
from accel.backends.benchmark import Candidate, benchmark_candidates
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import nearest
from edgewright.contracts.variant import BackendName, VariantDirectory
from edgewright.errors import EdgewrightError, ModelError, NotFoundError, NotWritableError, OperationError, StorageFullError
from hardware_profiles.detect import read_machine
from hardware_profiles.processors import default_threads

AUTO = "auto"

BACKENDS: dict[str, str] = {
    BackendName.ONNXRUNTIME: "accel.backends.onnxruntime_cpu:OnnxRuntime",
    BackendName.OPENVINO: "accel.backends.openvino_cpu:OpenVino",
    BackendName.OPENVINO_BF16: "accel.backends.openvino_cpu:OpenVinoBf16",
    BackendName.NPU: "accel.backends.npu_board:Npu",
}
"""Module and class of each backend; the module is imported on first use."""

_SHORTLIST_SIZE = 4
"""Variants that are benchmarked against each other at the end; the memory must hold all of them."""
_SHORTLIST_FACTOR = 1.5
"""A variant is on the shortlist up to this multiple of the fastest variant's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The backend that `auto` takes for a variant on this machine, and the measurements."""

    chosen: str
    median_ms: dict[str, float]
    """Time for one sample, by backend."""
    excluded: dict[str, str] = field(default_factory=dict)
    """The reason why each of the other backends is not a candidate."""
    cached: bool = False
    """True if the times are from an earlier benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fastest:
    """The fastest of several variants on this machine, and its backend."""

    variant: str
    backend: str
    explanations: dict[str, Explanation]
    """The choice of backend for each variant that runs here."""
    shortlist_ms: dict[str, float]
    """Time for one sample of each variant on the shortlist, by `variant on backend`, benchmarked side by side."""
    failures: dict[str, str] = field(default_factory=dict)
    """The reason why each of the other variants was excluded: no backend here runs it, or it failed to load."""

    @property
    def best_ms(self) -> dict[str, float]:
        """Time for one sample of each variant on its best backend, from the shortlist where the variant is on it."""
        return {
            name: self.shortlist_ms.get(f"{name} on {one.chosen}", one.median_ms[one.chosen])
            for name, one in self.explanations.items()
        }


def load_session(
    variant: VariantDirectory,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    backends: Sequence[Backend] | None = None,
) -> Session:
    """Load `variant` with the named backend, or with the fastest one for `auto`.

    Raises:
        NotFoundError: no backend has that name.
        OperationError: the backend cannot be used on this machine, or no backend can run the variant.
        ModelError: the variant's files cannot be loaded, or the backend does not run such variants.
    """
    possible = find_backends(backend, backends)
    if backend == AUTO:
        chosen = choose_backend(variant, threads=threads, backends=possible)
        return next(one for one in possible if one.name == chosen).load(variant, threads=threads)
    _check_usable(possible[0], variant)
    return possible[0].load(variant, threads=threads)


def find_backends(name: str, backends: Sequence[Backend] | None = None) -> Sequence[Backend]:
    """Return the backend called `name`, or all of them for `auto`.

    Raises:
        NotFoundError: no backend has that name.
    """
    every = _all_or(backends)
    if name == AUTO:
        return every
    named = [backend for backend in every if backend.name == name]
    if not named:
        raise NotFoundError(f"no backend is called {name!r}{nearest(name, [*(one.name for one in every), AUTO])}")
    return named


def backend_versions(backends: Sequence[Backend]) -> dict[str, str]:
    """Return the version of each backend's runtime, by the backend's name, without backends that cannot be used here."""
    return {backend.name: _version(backend.name) for backend in backends if backend.unavailable() is None}


def choose_backend(variant: VariantDirectory, *, threads: int | None = None, backends: Sequence[Backend] | None = None) -> str:
    """Return the name of the backend that `auto` takes; a single candidate is not benchmarked."""
    candidates, excluded = _candidates(variant, _all_or(backends))
    if len(candidates) == 1:
        return candidates[0].backend.name
    return _explanation(candidates, excluded, threads).chosen


def explain(variant: VariantDirectory, *, threads: int | None = None, backends: Sequence[Backend] | None = None) -> Explanation:
    """Return the choice of `auto` for `variant` with the times; benchmark if no cached times fit."""
    candidates, excluded = _candidates(variant, _all_or(backends))
    return _explanation(candidates, excluded, threads)


def find_fastest(
    variants: Sequence[VariantDirectory],
    *,
    threads: int | None = None,
    backends: Sequence[Backend] | None = None,
    ignore_cache: bool = False,
) -> Fastest:
    """Return the fastest of `variants` on this machine: find the best backend of each, then benchmark a shortlist of those.

    A variant that fails to load or to run is excluded, with the reason in `Fastest.failures`.

    Raises:
        OperationError: no variant can run on this machine; the message has the reason for each.
    """
    every = _all_or(backends)
    explanations: dict[str, Explanation] = {}
    failures: dict[str, str] = {}
    for variant in variants:
        try:
            candidates, excluded = _candidates(variant, every)
            explanations[variant.config.variant] = _explanation(candidates, excluded, threads, ignore_cache=ignore_cache)
        except EdgewrightError as error:
            failures[variant.config.variant] = str(error)
    if not explanations:
        raise OperationError("; ".join(failures.values()) or "there is no variant to choose from")
    named = {backend.name: backend for backend in every}
    shortlist = [
        Candidate(variant, named[explanations[variant.config.variant].chosen]) for variant in _shortlist(variants, explanations)
    ]
    shortlist_ms = _shortlist_times(shortlist, explanations, threads, ignore_cache=ignore_cache)
    for candidate in shortlist:
        if candidate.name not in shortlist_ms:
            del explanations[candidate.variant.config.variant]
            failures[candidate.variant.config.variant] = f"{candidate.name} ran alone, but failed beside the other variants"
    winner = min((one for one in shortlist if one.name in shortlist_ms), key=lambda one: (shortlist_ms[one.name], one.name))
    return Fastest(
        variant=winner.variant.config.variant,
        backend=winner.backend.name,
        explanations=explanations,
        shortlist_ms=shortlist_ms,
        failures=failures,
    )


def available_backends() -> tuple[Backend, ...]:
    """Return every backend of this installation, including those that cannot be used on this machine."""
    return tuple(_backend(path) for path in BACKENDS.values())


def _all_or(backends: Sequence[Backend] | None) -> Sequence[Backend]:
    return available_backends() if backends is None else backends


def _backend(path: str) -> Backend:
    module_name, _, attribute = path.partition(":")
    backend: Backend = getattr(import_module(module_name), attribute)()
    return backend


def _candidates(variant: VariantDirectory, backends: Sequence[Backend]) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates of a variant, and the reason by name for every other backend."""
    excluded = {backend.name: reason for backend in backends if (reason := _reason_against(backend, variant)) is not None}
    candidates = [Candidate(variant, backend) for backend in backends if backend.name not in excluded]
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise OperationError(f"no backend can run variant {variant.config.variant} on this machine ({reasons})")
    return candidates, excluded


def _reason_against(backend: Backend, variant: VariantDirectory) -> str | None:
    if not backend.runs(variant.config):
        return f"does not run {variant.config.precision} for {variant.config.backend}"
    return backend.unavailable()


def _check_usable(backend: Backend, variant: VariantDirectory) -> None:
    if not backend.runs(variant.config):
        raise ModelError(f"{variant.path}: {backend.name} {_reason_against(backend, variant)}; use --backend {AUTO}")
    reason = backend.unavailable()
    if reason is not None:
        raise OperationError(f"the backend {backend.name} cannot be used on this machine: {reason}")


def _shortlist(variants: Sequence[VariantDirectory], explanations: dict[str, Explanation]) -> list[VariantDirectory]:
    able = [variant for variant in variants if variant.config.variant in explanations]
    best_ms = {one.config.variant: min(explanations[one.config.variant].median_ms.values()) for one in able}
    near = [one for one in able if best_ms[one.config.variant] <= _SHORTLIST_FACTOR * min(best_ms.values())]
    return sorted(near, key=lambda one: best_ms[one.config.variant])[:_SHORTLIST_SIZE]


def _shortlist_times(
    shortlist: Sequence[Candidate], explanations: dict[str, Explanation], threads: int | None, *, ignore_cache: bool
) -> dict[str, float]:
    """Return the milliseconds of each candidate by name; a single one was benchmarked before."""
    if len(shortlist) > 1:
        return _times(shortlist, threads, ignore_cache=ignore_cache)[0]
    return {one.name: explanations[one.variant.config.variant].median_ms[one.backend.name] for one in shortlist}


def _explanation(
    candidates: Sequence[Candidate], excluded: dict[str, str], threads: int | None, *, ignore_cache: bool = False
) -> Explanation:
    times_ms, cached = _times(candidates, threads, ignore_cache=ignore_cache)
    median_ms = {one.backend.name: times_ms[one.name] for one in candidates if one.name in times_ms}
    return Explanation(chosen=_fastest(median_ms), median_ms=median_ms, excluded=excluded, cached=cached)


def _times(candidates: Sequence[Candidate], threads: int | None, *, ignore_cache: bool) -> tuple[dict[str, float], bool]:
    """Return the milliseconds of each candidate by name, and True if they are from the cache."""
    path = _cache_file(candidates, threads)
    cached_ms = None if path is None or ignore_cache else _read_cache(path, {candidate.name for candidate in candidates})
    if cached_ms is not None:
        return cached_ms, True
    times_ms = {candidate.name: time_ms for candidate, time_ms in benchmark_candidates(candidates, threads=threads).items()}
    if path is not None:
        with contextlib.suppress(OSError, NotWritableError, StorageFullError):  # without a cache it is benchmarked again
            write_atomically(path, wire.encode(times_ms))
    return times_ms, False


def _fastest(median_ms: dict[str, float]) -> str:
    return min(median_ms, key=lambda name: (median_ms[name], name))


def _read_cache(path: Path, names: set[str]) -> dict[str, float] | None:
    try:
        times_ms = wire.decode(path.read_bytes(), dict[str, float], what=str(path))
    except (OSError, EdgewrightError):
        return None
    return times_ms if times_ms and set(times_ms) <= names else None


def _cache_file(candidates: Sequence[Candidate], threads: int | None) -> Path | None:
    """Return the cache file for these candidates on this machine; None for a user without a home directory."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    key = wire.encode(
        {
            "machine": read_machine().fingerprint,
            "candidates": [
                [wire.digest_of(wire.encode(one.variant.config)), one.backend.name, _version(one.backend.name)]
                for one in candidates
            ],
            "threads": threads or default_threads(),
        }
    )
    return home / "edgewright" / "auto" / f"{wire.digest_of(key).removeprefix('sha256:')}.json"


def _version(backend: str) -> str:
    """Return the version of the distribution that a backend is named after (`openvino-bf16`: openvino), else our own."""
    for name in (backend, backend.partition("-")[0]):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return __version__
