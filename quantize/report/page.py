"""The report of a build: one self-contained HTML page, and the same numbers as JSON.

All numbers come from the reports that `quantize` wrote into `reports/`; nothing is measured here.
Sections, in order: overview of the variants, bars, classes, SQNR per layer, changed predictions, operators in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata, resources

from edgewright import __version__
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import FLOAT_VARIANT
from edgewright.errors import NotFoundError
from hardware_profiles.detect import read_machine
from quantize.report.charts import bars, sqnr_plot
from quantize.report.detail import Change, ClassAccuracy, VariantDetail, read_details

READABLE_DB = 20.0
"""At this SQNR a tenth of the amplitude is noise; the plot marks it."""
LARGEST_MATRIX = 16
MOST_CLASSES = 40
"""Rows of the table of classes; of more classes, those that differ most are shown."""
WORST_LAYERS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The contents of the page, `report.json`."""

    source_kind: str
    source_digest: str
    machine: str
    versions: dict[str, str]
    variants: dict[str, VariantDetail]
    same_samples: bool
    """True if every variant was measured on the same samples; otherwise their numbers are not comparable."""


def collect(build: BuildDirectory) -> Report:
    """Collect the stored measurements; raise `NotFoundError` if there are none."""
    details = read_details(build)
    if not details:
        raise NotFoundError(f"{build.reports} must hold measurements, but it has none: run 'edgewright quantize'")
    machine = read_machine()
    return Report(
        source_kind=build.record.source_kind,
        source_digest=build.record.source_digest,
        machine=f"{machine.cpu_model}, {machine.cpu_cores} cores",
        versions={"edgewright": __version__} | {name: metadata.version(name) for name in ("onnxruntime", "numpy")},
        variants=details,
        same_samples=len({detail.samples for detail in details.values()}) == 1,
    )


def page(report: Report) -> str:
    """Return the HTML page."""
    style = resources.files("quantize.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = (_header, _overview, _bars, _classes, _sqnr, _changes, _float_fallbacks, _footer)
    body = "\n".join(section(report) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Quantization report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _header(report: Report) -> str:
    counts = sorted({detail.evaluation.count for detail in report.variants.values()})
    samples = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    warning = (
        ""
        if report.same_samples
        else '<p class="bad">The variants were measured on different samples: run <code>edgewright quantize</code> for all of '
        "them with one file before comparing.</p>"
    )
    return (
        "<h1>Quantization report</h1>"
        f'<p class="soft">A {escape(report.source_kind)} model, <code>{escape(report.source_digest[:19])}</code>, measured on '
        f"{samples} samples.</p>{warning}"
    )


def _overview(report: Report) -> str:
    before = report.variants.get(FLOAT_VARIANT)
    cards = [_card(place, name, detail, before) for place, (name, detail) in enumerate(report.variants.items())]
    return f'<div class="variants">{"".join(cards)}</div>'


def _card(place: int, name: str, detail: VariantDetail, before: VariantDetail | None) -> str:
    evaluation = detail.evaluation
    headline, measure = _share(evaluation.agreement), "same label as float"
    if evaluation.accuracy is not None:
        headline, measure = f"{evaluation.accuracy:.2%}", "accuracy"
    rows = {
        "agreement": _share(evaluation.agreement),
        "size": f"{detail.size_bytes / 1000:,.1f} kB",
        "latency": f"{evaluation.latency_ms.p50:.3f} ms",
        "output SQNR": f"{detail.layers[-1].sqnr_db:.1f} dB" if detail.layers else "none",
    }
    if before is not None and before is not detail:
        rows["size"] += f" (1/{before.size_bytes / detail.size_bytes:.1f})"
    listed = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows.items())
    return (
        f'<div class="variant v{place % 6}"><h2>{escape(name)}</h2><div class="big">{headline}</div>'
        f'<div class="soft">{measure}{_drop(detail, before)}</div><dl>{listed}</dl></div>'
    )


def _share(share: float | None) -> str:
    return "not applicable" if share is None else f"{share:.2%}"


def _drop(detail: VariantDetail, before: VariantDetail | None) -> str:
    if before is None or before is detail or detail.evaluation.accuracy is None or before.evaluation.accuracy is None:
        return ""
    points = 100 * (detail.evaluation.accuracy - before.evaluation.accuracy)
    if not points:
        return ", same as float"
    return f', <span class="{"bad" if points < 0 else "good"}">{points:+.2f} points</span>'


def _bars(report: Report) -> str:
    sizes = {name: detail.size_bytes / 1000 for name, detail in report.variants.items()}
    times = {name: detail.evaluation.latency_ms.p50 for name, detail in report.variants.items()}
    tails = {name: detail.evaluation.latency_ms.p95 for name, detail in report.variants.items()}
    charts = (
        ("Size", bars(sizes, {name: f"{size:,.1f} kB" for name, size in sizes.items()}, "size of each variant")),
        ("Latency of one sample, median", bars(times, {name: f"{time:.3f} ms" for name, time in times.items()}, "latency")),
    )
    shown = "".join(f"<div><h3>{title}</h3>{chart}</div>" for title, chart in charts)
    tail = ", ".join(f"{escape(name)} {time:.3f} ms" for name, time in tails.items())
    return (
        f'<section><h2>Size and latency</h2><div class="variants">{shown}</div>'
        f'<p class="soft">Latency on {escape(report.machine)}. 95th percentiles: {tail}.</p></section>'
    )


def _classes(report: Report) -> str:
    classes_of = {name: {one.label: one for one in detail.classes} for name, detail in report.variants.items() if detail.classes}
    if not classes_of:
        return ""
    first = classes_of.get(FLOAT_VARIANT) or next(iter(classes_of.values()))
    shown = _most_different(first, list(classes_of.values()))
    head = "".join(f"<th>{escape(name)}</th>" for name in classes_of)
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{one.count}</td>"
        + "".join(_class_cell(classes.get(label), one.accuracy) for classes in classes_of.values())
        + "</tr>"
        for label, one in first.items()
        if label in shown
    )
    omitted = "" if len(shown) == len(first) else f" Of {len(first)} classes, the {len(shown)} that differ most are shown."
    return (
        "<section><h2>Accuracy per class</h2><p class='soft'>An average can hide a class with a large loss. "
        f"Cells are coloured if a variant differs from float by a point or more.{omitted}</p>"
        f'<div class="scroll"><table class="wide"><tr><th>class</th><th>samples</th>{head}</tr>{rows}</table></div></section>'
    )


def _most_different(first: Mapping[str, ClassAccuracy], others: Sequence[Mapping[str, ClassAccuracy]]) -> set[str]:
    """Return the labels of the classes in which a variant differs most from `first`, at most `MOST_CLASSES`."""

    def difference(label: str) -> float:
        return max(abs(one[label].accuracy - first[label].accuracy) * first[label].count for one in others if label in one)

    return set(sorted(first, key=difference, reverse=True)[:MOST_CLASSES])


def _class_cell(member: ClassAccuracy | None, before: float) -> str:
    if member is None:
        return "<td></td>"
    points = 100 * (member.accuracy - before)
    kind = "" if abs(points) < 1 else ' class="bad"' if points < 0 else ' class="good"'
    suffix = "" if abs(points) < 1 else f" ({points:+.1f})"
    return f"<td{kind}>{member.accuracy:.1%}{suffix}</td>"


def _sqnr(report: Report) -> str:
    series = {
        name: [(one.node, one.sqnr_db) for one in detail.layers] for name, detail in report.variants.items() if detail.layers
    }
    if not series:
        return ""
    colors = {name: place for place, name in enumerate(report.variants)}
    legend = "".join(f'<span class="v{colors[name] % 6}"><i></i>{escape(name)}</span>' for name in series)
    worst = "".join(_worst_layers(name, report.variants[name]) for name in series)
    return (
        "<section><h2>SQNR per layer</h2>"
        "<p class='soft'>Signal-to-quantization-noise ratio after each operator in dB: higher is better; "
        f"six decibels are a bit. At the dashed line ({READABLE_DB:g} dB) a tenth of the amplitude is noise.</p>"
        f'<div class="legend">{legend}</div><div class="scroll">{sqnr_plot(series, colors, READABLE_DB)}</div>'
        f"<details><summary>The {WORST_LAYERS} operators with the lowest SQNR per variant</summary>{worst}</details></section>"
    )


def _worst_layers(name: str, detail: VariantDetail) -> str:
    lowest = sorted(detail.layers, key=lambda one: one.sqnr_db)[:WORST_LAYERS]
    rows = "".join(
        f'<tr><td><code>{escape(one.node)}</code></td><td class="text">{escape(one.operator)}</td><td>{one.sqnr_db:.1f}</td></tr>'
        for one in lowest
    )
    head = '<tr><th>operator</th><th class="text">kind</th><th>dB</th></tr>'
    return f'<h3>{escape(name)}</h3><div class="scroll"><table>{head}{rows}</table></div>'


def _changes(report: Report) -> str:
    parts = [_changes_of(name, detail) for name, detail in report.variants.items() if name != FLOAT_VARIANT and detail.classes]
    if not parts:
        return ""
    return (
        "<section><h2>Changed predictions</h2><p class='soft'>Samples with another prediction than the float variant: "
        f"float's class in the row, the variant's in the column.</p>{''.join(parts)}</section>"
    )


def _changes_of(name: str, detail: VariantDetail) -> str:
    total = sum(change.count for change in detail.changes)
    if not total:
        return f"<h3>{escape(name)}</h3><p>None: every sample keeps its label.</p>"
    corrected, broken = (sum(getattr(one, kind) or 0 for one in detail.changes) for kind in ("corrected", "broken"))
    summary = (
        f"{total} of {detail.evaluation.count:,}: <span class='bad'>{broken} were correct in float</span>, "
        f"<span class='good'>{corrected} are correct in the variant</span>, the others are wrong in both."
    )
    return f"<h3>{escape(name)}</h3><p>{summary}</p>{_matrix(detail.changes)}"


def _matrix(changes: Sequence[Change]) -> str:
    shown = list(dict.fromkeys(name for change in changes for name in (change.before, change.after)))[:LARGEST_MATRIX]
    counts: Mapping[tuple[str, str], int] = {(change.before, change.after): change.count for change in changes}
    largest = max(counts.values())
    names = sorted(shown)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(row)}</th>{''.join(_heat(counts.get((row, column), 0), largest) for column in names)}</tr>"
        for row in names
    )
    omitted = sum(count for (row, column), count in counts.items() if row not in shown or column not in shown)
    more = f'<p class="soft">{omitted} more between other classes; see the JSON file.</p>' if omitted else ""
    return f'<div class="scroll"><table class="matrix"><tr><th>float \\ variant</th>{head}</tr>{rows}</table></div>{more}'


def _heat(count: int, largest: int) -> str:
    if not count:
        return "<td></td>"
    return f'<td style="background: rgb(var(--heat) / {0.15 + 0.5 * count / largest:.2f})">{count}</td>'


def _float_fallbacks(report: Report) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="text"><code>{escape(one.node)}</code></td>'
        f'<td class="text">{escape(one.operator)}</td><td class="text">{escape(one.reason)}</td></tr>'
        for name, detail in report.variants.items()
        for one in detail.float_fallbacks
    )
    if not rows:
        return ""
    return (
        '<section><h2>Operators in float</h2><div class="scroll"><table class="wide"><tr><th>variant</th>'
        f'<th class="text">operator</th><th class="text">kind</th><th class="text">reason</th></tr>{rows}</table></div></section>'
    )


def _footer(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f"<footer><p>{escape(versions)}. The JSON file beside this page has the same numbers.</p></footer>"
