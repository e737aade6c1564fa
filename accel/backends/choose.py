"""Choose a backend: the one that is asked for, or the fastest on this machine; and the fastest of several variants.

`auto` measures every backend that can run the variant here (contest.py), remembers the times, and can show them (`explain`).
With one candidate there is nothing to measure. What is remembered is bound to the machine, the candidates' versions, the
variants' configs and the threads; a file that cannot be read is as good as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path

from accel.backends.backend import Backend, Session
from accel.backends.contest import Entrant, hold_contest
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import nearest
from edgewright.contracts.variant import BackendName, VariantDirectory
from edgewright.errors import EdgewrightError, ModelError, NotFoundError, NotWritableError, OperationError, StorageFullError
from hardware_profiles.detect import read_machine

AUTO = "auto"

BACKENDS: dict[str, str] = {
    BackendName.ONNXRUNTIME: "accel.backends.onnxruntime_cpu:OnnxRuntime",
    BackendName.OPENVINO: "accel.backends.openvino_cpu:OpenVino",
    BackendName.OPENVINO_BF16: "accel.backends.openvino_cpu:OpenVinoBf16",
    BackendName.NPU: "accel.backends.npu_board:Npu",
}
"""Where each backend lives; the module is imported on use."""

_FINALISTS = 4
"""How many variants are measured against each other at the end: each holds its network in memory."""
_WORTH_A_FINAL = 1.5
"""How many times the fastest variant's time still takes part in the final."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fastest:
    """Which of several variants is the fastest here, and on which backend."""

    variant: str
    backend: str
    explanations: dict[str, Explanation]
    """What is known of each variant that runs here."""
    final_ms: dict[str, float]
    """What the fastest few took one sample, measured against each other, by `variant on backend`."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why the other variants fell out: nothing here can run them, or they could not be loaded."""

    @property
    def best_ms(self) -> dict[str, float]:
        """What each variant takes one sample on its best backend: as in the final, or as measured by itself."""
        return {
            name: self.final_ms.get(f"{name} on {known.chosen}", known.median_ms[known.chosen])
            for name, known in self.explanations.items()
        }


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
    asked = backends_called(backend, backends)
    if backend == AUTO:
        chosen = choose_backend(variant, threads=threads, backends=asked)
        return next(one for one in asked if one.name == chosen).load(variant, threads=threads)
    _check_usable(asked[0], variant)
    return asked[0].load(variant, threads=threads)


def backends_called(name: str, backends: Sequence[Backend] | None = None) -> Sequence[Backend]:
    """Return the backend of that name, or all for `auto`; raise `NotFoundError` when there is none."""
    known = _known(backends)
    if name == AUTO:
        return known
    found = [candidate for candidate in known if candidate.name == name]
    if not found:
        raise NotFoundError(f"no backend is called {name!r}{nearest(name, [*(one.name for one in known), AUTO])}")
    return found


def versions_of(backends: Sequence[Backend]) -> dict[str, str]:
    """Return the version of what each backend runs on, by its name; those that cannot be used here are left out."""
    return {backend.name: _version(backend.name) for backend in backends if backend.unavailable() is None}


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


def find_fastest(
    variants: Sequence[VariantDirectory],
    *,
    threads: int | None = None,
    backends: Sequence[Backend] | None = None,
    anew: bool = False,
) -> Fastest:
    """Return the fastest of `variants` on this machine: each takes its best backend, then the best few meet in a final.

    With `anew` nothing that is remembered counts. A variant that cannot be loaded or run falls out with its reason.

    Raises:
        OperationError: nothing here can run any of them; the reasons are told.
    """
    known = _known(backends)
    explanations: dict[str, Explanation] = {}
    failures: dict[str, str] = {}
    for variant in variants:
        try:
            explanations[variant.config.variant] = _explain(variant, *_candidates(variant, known), threads, anew=anew)
        except EdgewrightError as failed:
            failures[variant.config.variant] = str(failed)
    if not explanations:
        raise OperationError("; ".join(failures.values()) or "there is no variant to choose from")
    named = {backend.name: backend for backend in known}
    finalists = [
        Entrant(variant, named[explanations[variant.config.variant].chosen]) for variant in _finalists(variants, explanations)
    ]
    final_ms = _final(finalists, explanations, threads, anew=anew)
    for one in finalists:
        if one.name not in final_ms:
            del explanations[one.variant.config.variant]
            failures[one.variant.config.variant] = f"{one.name} ran by itself, but failed beside the other variants"
    winner = min((one for one in finalists if one.name in final_ms), key=lambda one: (final_ms[one.name], one.name))
    return Fastest(
        variant=winner.variant.config.variant,
        backend=winner.backend.name,
        explanations=explanations,
        final_ms=final_ms,
        failures=failures,
    )


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


def _finalists(variants: Sequence[VariantDirectory], explanations: dict[str, Explanation]) -> list[VariantDirectory]:
    able = [variant for variant in variants if variant.config.variant in explanations]
    best_ms = {one.config.variant: min(explanations[one.config.variant].median_ms.values()) for one in able}
    worth_it = [one for one in able if best_ms[one.config.variant] <= _WORTH_A_FINAL * min(best_ms.values())]
    return sorted(worth_it, key=lambda one: best_ms[one.config.variant])[:_FINALISTS]


def _final(
    finalists: Sequence[Entrant], explanations: dict[str, Explanation], threads: int | None, *, anew: bool
) -> dict[str, float]:
    """Return the finalists' milliseconds by name; a single one needs no final."""
    if len(finalists) > 1:
        return _times(finalists, threads, anew=anew)[0]
    return {one.name: explanations[one.variant.config.variant].median_ms[one.backend.name] for one in finalists}


def _explain(
    variant: VariantDirectory,
    candidates: Sequence[Backend],
    refused: dict[str, str],
    threads: int | None,
    *,
    anew: bool = False,
) -> Explanation:
    entrants = [Entrant(variant, backend) for backend in candidates]
    found, remembered = _times(entrants, threads, anew=anew)
    median_ms = {entrant.backend.name: found[entrant.name] for entrant in entrants if entrant.name in found}
    return Explanation(chosen=_fastest(median_ms), median_ms=median_ms, refused=refused, remembered=remembered)


def _times(entrants: Sequence[Entrant], threads: int | None, *, anew: bool) -> tuple[dict[str, float], bool]:
    """Return each entrant's milliseconds by name, and whether they are remembered from another time."""
    place = _cache_file(entrants, threads)
    remembered = None if place is None or anew else _recall(place, {entrant.name for entrant in entrants})
    if remembered is not None:
        return remembered, True
    found = {entrant.name: time_ms for entrant, time_ms in hold_contest(entrants, threads=threads).items()}
    if place is not None:
        with contextlib.suppress(OSError, NotWritableError, StorageFullError):  # such a home costs a measurement, nothing else
            write_atomically(place, wire.encode(found))
    return found, False


def _fastest(median_ms: dict[str, float]) -> str:
    return min(median_ms, key=lambda name: (median_ms[name], name))


def _recall(path: Path, entrants: set[str]) -> dict[str, float] | None:
    try:
        found = wire.decode(path.read_bytes(), dict[str, float], what=str(path))
    except (OSError, EdgewrightError):
        return None
    return found if found and set(found) <= entrants else None


def _cache_file(entrants: Sequence[Entrant], threads: int | None) -> Path | None:
    """Return where the times of these entrants on this machine are kept; None for a user without a home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    machine = read_machine()
    key = wire.encode(
        {
            "machine": [machine.architecture, machine.cpu_model, machine.cpu_cores, sorted(machine.isa_extensions)],
            "entrants": [
                [wire.digest_of(wire.encode(entrant.variant.config)), entrant.backend.name, _version(entrant.backend.name)]
                for entrant in entrants
            ],
            "threads": threads,
        }
    )
    return home / "edgewright" / "auto" / f"{wire.digest_of(key).removeprefix('sha256:')}.json"


def _version(backend: str) -> str:
    """Return the version of the distribution that a backend is named after (`openvino-bf16`: openvino), else our own."""
    for name in (backend, backend.partition("-")[0]):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return __version__
