"""The page of a profile: one HTML file with the recommendation, two curves and every measurement; it needs no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgewright.profiling.profile import Measurement, Report

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 66, 42
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: currentColor; }
.axis { stroke: currentColor; stroke-opacity: .35; }
.grid { stroke: currentColor; stroke-opacity: .12; }
.limit { stroke: #b3261e; stroke-dasharray: 5 4; }
polyline { fill: none; stroke-width: 2; }
table { border-collapse: collapse; width: 100%; font-size: .8rem; }
th, td { text-align: right; white-space: nowrap; padding: .25rem .5rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.no { color: #b3261e; }
strong.figure { font-size: 1.3rem; }
"""
_COLOURS = {"50": "#3b82c4", "95": "#c2681d", "99": "#8552a8"}


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def page(report: Report) -> str:
    """Return the page of a finished profile."""
    objective = report.settings.objective
    aim = f"{objective.rate:g} requests/s with a p{objective.percentile} of at most {objective.latency_ms:g} ms"
    title = f"Profile of {html.escape(report.settings.target)}"
    parts = [f"<h1>{title}</h1>", f"<p>Asked for: {aim}.</p>", *_conclusion(report)]
    searched = [each for each in report.measurements if each.step == "search"]
    parts += _chart("Latency over processor time", "CPU", _percentile_lines(searched, "cpu"), objective.latency_ms)
    if report.recommendation is not None:
        curve = [each for each in report.measurements if each.step == "curve"]
        head = f"Latency over the rate, with {report.recommendation.cpu:g} CPU"
        parts += _chart(head, "requests/s", _percentile_lines(curve, "rate"), objective.latency_ms)
    parts += [
        _table(report.measurements),
        f"<p>Measured on {html.escape(report.machine)}, limits by {report.settings.method}.</p>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _conclusion(report: Report) -> list[str]:
    found, objective = report.recommendation, report.settings.objective
    if found is None:
        best = (
            f"the largest holds {report.best_rate:g} requests/s" if report.best_rate else "the largest holds none of those tried"
        )
        return [f"<p class=no>No size of this machine holds that: {best}.</p>"]
    what = f"<p><strong class=figure>{found.cpu:g} CPU, {found.memory_in_gb:g} GB</strong>, "
    what += f"{report.settings.parallel}: {found.processes}; p{objective.percentile} {found.latency_ms:.1f} ms.</p>"
    half = {True: "Half of it holds too, so less may do.", False: "Half of it does not hold.", None: ""}[found.is_half_held]
    knee = "" if found.knee is None else f"Highest rate that was measured and held: {found.knee:g} requests/s."
    return [what, f"<p>{half} {knee}</p>"]


def _percentile_lines(measurements: Sequence[Measurement], axis: str) -> list[_Line]:
    lines = []
    for percentile, colour in _COLOURS.items():
        points = []
        for each in sorted(measurements, key=lambda measured: float(getattr(measured, axis))):
            latency_ms = None if each.result is None else each.result.percentiles_ms[percentile]
            if latency_ms is not None:
                points.append((float(getattr(each, axis)), latency_ms))
        lines.append(_Line(f"p{percentile}", colour, points))
    return lines


def _chart(head: str, unit: str, lines: Sequence[_Line], limit_ms: float) -> list[str]:
    """Return a line chart with a logarithmic axis of latency in milliseconds."""
    points = [point for line in lines for point in line.points]
    if not points:
        return []
    right = max(x for x, _ in points)
    low = 10 ** math.floor(math.log10(max(1e-3, min(min(y for _, y in points), limit_ms))))
    high = 10 ** math.ceil(math.log10(max(max(y for _, y in points), limit_ms) * 1.01))

    def x_of(value: float) -> float:
        return _LEFT + value / right * (_WIDTH - _LEFT - 40)

    def y_of(value_ms: float) -> float:
        return (_HEIGHT - _BOTTOM) * (1 - math.log(value_ms / low) / math.log(high / low)) + 8

    drawn = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = y_of(10.0**power)
        drawn.append(f'<line class=grid x1="{_LEFT}" x2="{_WIDTH - 40}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} ms</text>')
    for x in sorted({x for x, _ in points}):
        drawn.append(f'<text x="{x_of(x):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{x:g}</text>')
    drawn.append(f'<text x="{_LEFT - 6}" y="{_HEIGHT - 16}" text-anchor="end">{unit}</text>')
    drawn.append(f'<line class=limit x1="{_LEFT}" x2="{_WIDTH - 40}" y1="{y_of(limit_ms):.1f}" y2="{y_of(limit_ms):.1f}"/>')
    for line in lines:
        if line.points:
            path = " ".join(f"{x_of(x):.1f},{y_of(max(y, low)):.1f}" for x, y in line.points)
            drawn.append(f'<polyline points="{path}" stroke="{line.colour}"/>')
            x, y = line.points[-1]
            drawn.append(
                f'<text x="{x_of(x) + 4:.1f}" y="{y_of(max(y, low)) + 4:.1f}" style="fill:{line.colour}">{line.name}</text>'
            )
    body = "".join(drawn)
    return [f"<h2>{html.escape(head)}</h2>", f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{head}">{body}</svg>']


def _table(measurements: Sequence[Measurement]) -> str:
    heads = ("step", "CPU", "memory limit", "requests/s", "p50", "p95", "p99", "failed", "memory", "held")
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(each))}</tr>" for each in measurements)
    return f"<h2>Measurements</h2><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"


def _cells(each: Measurement) -> list[str]:
    limit = "-" if each.memory_limit_bytes is None else f"{each.memory_limit_bytes / 1e9:.1f} GB"
    start = [each.step, f"{each.cpu:g}", limit, f"{each.rate:g}"]
    if each.result is None:
        return [*start, "-", "-", "-", "-", "-", f"<span class=no>no: {html.escape(each.reason)}</span>"]
    latencies = [each.result.percentiles_ms[name] for name in ("50", "95", "99")]
    shown = ["-" if latency is None else f"{latency:.2f} ms" for latency in latencies]
    held = "yes" if each.is_held else "<span class=no>no</span>"
    return [*start, *shown, f"{each.result.failed_share:.1%}", f"{each.memory_bytes / 1e6:.0f} MB", held]
