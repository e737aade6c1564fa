"""`quantize --scheme auto`: make every variant that fits, and keep those that no other one beats.

make      fp16, int8, int8-dynamic, mxint8 and, if NNCF is installed, int8-openvino; a scheme that refuses is a row of the table
measure   one sample on the variant's own backend, each in a process of its own, in turns (accel/backends/benchmark.py)
keep      the Pareto front of accuracy, size and latency (pareto.py); the float variant always stays
journal   every variant that is made is noted, so an interrupted run continues

Variants of other schemes, such as mixed, are left as they are.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from accel.backends.benchmark import Candidate, benchmark_candidates
from accel.backends.choose import find_backends
from accel.comparison import quality
from accel.evaluate import Evaluation
from accel.first_run import FirstRuns
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, BackendName, LayerKind, VariantDirectory
from edgewright.errors import BadInputError, EdgewrightError, PackageError
from edgewright.progress import Progress, silent
from hardware_profiles.hardware_profile import HardwareProfile
from quantize.auto.pareto import Point, advantages, beaten_by
from quantize.quantization import (
    Baseline,
    QuantizeOptions,
    check_request,
    options_for,
    quantize,
    remove_quantized,
    samples_for,
    score_float,
)
from quantize.scheme import Scheme

AUTO = "auto"
JOURNAL = "auto-journal"
REPORT = "auto"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRow:
    """One candidate; an object of `reports/auto.json`."""

    variant: str
    kept: bool
    reason: str
    """The advantage of a kept variant; the variant that beats a dropped one, or the error that ended it."""
    quality: float | None = None
    """None for a scheme that made no variant, as the other measurements."""
    measure: str | None = None
    """The name of `quality`."""
    size_bytes: int | None = None
    latency_ms: float | None = None


@dataclass(kw_only=True)
class AutoJournal:
    """The candidates so far: the reason of each that was refused, or an empty string for each that was made."""

    key: str
    """Digest of the graph, the samples and the options."""
    refused: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)


def quantize_auto(
    build: BuildDirectory,
    common: QuantizeOptions,
    *,
    profiles: Sequence[HardwareProfile] = (),
    progress: Progress = silent,
) -> list[AutoRow]:
    """Make the candidates, remove those outside of the front from the build, and return a row for each, the float variant first.

    Args:
        build: the build directory; it must hold the float variant.
        common: the samples, the limits and the settings of int8, for all candidates; each has its own scheme and backend.
        profiles: hardware whose integer types int8 gets; the latency is always that of this machine.
        progress: shows the progress of long loops.

    Raises:
        ModelError: the graph is already quantized, or its weights are not float32.
        SamplesError: the samples do not fit, or cannot calibrate.
    """
    requests = _requests(common, profiles)
    any_samples = replace(common, scheme=Scheme.MXINT8)
    check_request(build, any_samples)
    with FirstRuns() as first_runs:
        samples = samples_for(build, any_samples)
        baseline = score_float(build, samples, first_runs)
        journal = _open_journal(build, common, baseline)
        for request in requests.values():
            _make(build, request, baseline, journal, first_runs=first_runs, progress=progress)
    rows = _rows(build, baseline, journal)
    build.write_report(REPORT, rows)
    for row in rows:
        if not row.kept and row.variant in journal.made:
            remove_quantized(build, row.variant)
    (build.reports / f"{JOURNAL}.json").unlink(missing_ok=True)
    return rows


def _requests(common: QuantizeOptions, profiles: Sequence[HardwareProfile]) -> dict[str, QuantizeOptions]:
    """Return one request per candidate, by the name of its variant; OpenVINO last, because it slows down what follows."""
    plain = [replace(common, scheme=scheme) for scheme in (Scheme.FP16, Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.MXINT8)]
    requests = [one for request in plain for one in _for_profiles(request, profiles)]
    if find_spec("nncf") is not None and find_spec("openvino") is not None:
        backend = BackendName.OPENVINO  # takes no settings of int8
        requests.append(QuantizeOptions(scheme=Scheme.INT8, samples=common.samples, backend=backend, max_drop=common.max_drop))
    return {request.variant: request for request in requests}


def _for_profiles(request: QuantizeOptions, profiles: Sequence[HardwareProfile]) -> Sequence[QuantizeOptions]:
    """Return the requests for hardware; none if the hardware does not run the precision."""
    fitting = [one for one in profiles if request.scheme.precision in one.precisions]
    return options_for(request, fitting) if fitting or not profiles else ()


def _open_journal(build: BuildDirectory, common: QuantizeOptions, baseline: Baseline) -> AutoJournal:
    """Return the journal of an interrupted run with the same key, or an empty one."""
    graph = wire.digest_of((build.graph / LayerKind.GRAPH.file_name).read_bytes())
    parts = [__version__, graph, build.record.source_digest, baseline.detail.samples, common.int8, common.max_drop]
    key = wire.digest_of(wire.encode(parts))
    path = build.reports / f"{JOURNAL}.json"
    if path.is_file():
        journal = wire.decode(path.read_bytes(), AutoJournal, what=str(path), error=PackageError)
        if journal.key == key:
            present = {variant.config.variant for variant in build.variants()}
            journal.made = [name for name in journal.made if name in present]
            log.info("resumed made=%d refused=%d", len(journal.made), len(journal.refused))
            return journal
    return AutoJournal(key=key)


def _make(
    build: BuildDirectory,
    request: QuantizeOptions,
    baseline: Baseline,
    journal: AutoJournal,
    *,
    first_runs: FirstRuns,
    progress: Progress,
) -> None:
    """Make one candidate, and note it in the journal."""
    name = request.variant
    if name in journal.made or name in journal.refused:
        return
    try:
        quantize(build, request, baseline=baseline, first_runs=first_runs, progress=progress)
        journal.made.append(name)
    except EdgewrightError as error:
        journal.refused[name] = str(error)
        log.info("refused variant=%s: %s", name, error)
    build.write_report(JOURNAL, journal)


def _rows(build: BuildDirectory, baseline: Baseline, journal: AutoJournal) -> list[AutoRow]:
    variants = [build.variant(name) for name in (FLOAT_VARIANT, *journal.made)]
    times_ms = _latencies(variants, baseline.samples)
    measured = {
        variant.config.variant: quality(_evaluation(build, variant, baseline).as_measured())
        for variant in variants
        if variant.config.variant in times_ms
    }
    points = [
        Point(variant=name, quality=value, size_bytes=build.variant(name).config.size_bytes, latency_ms=times_ms[name])
        for name, (_, value) in measured.items()
    ]
    reasons = judge(points)
    return [
        *(_row(point, measured[point.variant][0], reasons[point.variant]) for point in points),
        *(
            AutoRow(variant=one.config.variant, kept=False, reason="its backend fails beside the others")
            for one in variants
            if one.config.variant not in measured
        ),
        *(AutoRow(variant=name, kept=False, reason=reason) for name, reason in journal.refused.items()),
    ]


def judge(points: Sequence[Point]) -> dict[str, tuple[bool, str]]:
    """Return for each variant True if it stays, and the reason; the first is the float variant, which always stays."""
    by_name = {point.variant: point for point in points}
    beaten = beaten_by(points)
    float_name = points[0].variant
    reasons: dict[str, tuple[bool, str]] = {}
    for name, point in by_name.items():
        if name == float_name:
            reasons[name] = (True, "the source of the others")
        elif name in beaten:
            winner = by_name[beaten[name]]
            reasons[name] = (False, f"{winner.variant} is {advantages(winner, point)}")
        else:
            reasons[name] = (True, _merit(point, points))
    return reasons


def _merit(point: Point, points: Iterable[Point]) -> str:
    """Return the advantages of a variant of the front over all others."""
    others = [one.rounded() for one in points if one is not point]
    words = ("most accurate", "smallest", "fastest")
    best = [word for place, word in enumerate(words) if all(point.rounded()[place] < one[place] for one in others)]
    return ", ".join(best) or "no other is better in all three"


def _row(point: Point, measure: str, verdict: tuple[bool, str]) -> AutoRow:
    return AutoRow(
        variant=point.variant,
        kept=verdict[0],
        reason=verdict[1],
        quality=point.quality,
        measure=measure,
        size_bytes=point.size_bytes,
        latency_ms=point.latency_ms,
    )


def _evaluation(build: BuildDirectory, variant: VariantDirectory, baseline: Baseline) -> Evaluation:
    if variant.config.variant == FLOAT_VARIANT:
        return baseline.detail.evaluation
    path = build.reports / f"quantize-{variant.config.variant}.json"
    return wire.decode(path.read_bytes(), Evaluation, what=str(path), error=PackageError)


def _latencies(variants: Sequence[VariantDirectory], samples: Samples) -> Mapping[str, float]:
    """Return the milliseconds of one real sample by variant, measured in turns, each in its own process."""
    candidates = [Candidate(variant, find_backends(variant.config.backend)[0]) for variant in variants]
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        sample = Path(folder) / "sample.npz"
        write_npz(sample, samples.slice(0, 1).inputs)
        times_ms = benchmark_candidates(candidates, threads=None, sample=sample)
    return {candidate.variant.config.variant: time_ms for candidate, time_ms in times_ms.items()}


AUTO_COLUMNS = ("variant", "kept", "quality", "size kB", "p50 ms", "reason")


def auto_cells(rows: Iterable[AutoRow]) -> Iterator[tuple[object, ...]]:
    """Yield the cells below `AUTO_COLUMNS`."""
    for row in rows:
        yield (
            row.variant,
            "yes" if row.kept else "no",
            None if row.quality is None else f"{row.quality:.2%}",
            None if row.size_bytes is None else f"{row.size_bytes / 1000:,.1f}",
            None if row.latency_ms is None else f"{row.latency_ms:.3f}",
            row.reason,
        )


def check_alone(schemes: Sequence[str], backend: str) -> None:
    """Raise `BadInputError` if `auto` is combined with another scheme or a backend: it tries them."""
    if len(set(schemes)) > 1 or backend != BackendName.ONNXRUNTIME:
        raise BadInputError(
            f"--scheme {AUTO} tries the schemes and backends that fit, so it must be given without --backend and without another "
            "--scheme: leave those out, or name the schemes without auto"
        )
