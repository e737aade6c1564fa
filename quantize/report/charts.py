"""The charts of the report, as SVG with the colours of the page's style sheet, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 720
ROW = 30
NAME_WIDTH = 84
VALUE_WIDTH = 96
PLOT_HEIGHT = 240
LEFT, BOTTOM, TOP = 44, 26, 10
DOT_RADIUS = 3.5


def bars(values: Mapping[str, float], texts: Mapping[str, str], description: str) -> str:
    """Draw one horizontal bar per variant, from zero, with its text to the right."""
    largest = max(values.values(), default=0.0) or 1.0
    room = WIDTH / 2 - NAME_WIDTH - VALUE_WIDTH
    rows = [
        f'<g class="v{place % 6}"><text class="name" x="0" y="{y + 15}">{escape(name)}</text>'
        f'<rect class="bar" x="{NAME_WIDTH}" y="{y + 3}" width="{max(2.0, room * value / largest):.1f}" height="16" rx="3"/>'
        f'<text x="{NAME_WIDTH + 8 + room * value / largest:.1f}" y="{y + 15}">{escape(texts[name])}</text></g>'
        for place, (name, value) in enumerate(values.items())
        for y in [place * ROW]
    ]
    return _svg(WIDTH // 2, len(values) * ROW, description, rows)


def sqnr_plot(series: Mapping[str, Sequence[tuple[str, float]]], colors: Mapping[str, int], limit_db: float) -> str:
    """Draw the SQNR along the graph, one line per variant; the tooltip of a dot has its operator."""
    order = list(dict.fromkeys(name for points in series.values() for name, _ in points))
    top = _ceiling([value for points in series.values() for _, value in points])
    step = (WIDTH - LEFT - 12) / max(len(order) - 1, 1)
    places = {name: LEFT + step * place for place, name in enumerate(order)}
    parts = [_grid_line(value, top, "grid") for value in range(0, int(top) + 1, 20)]
    if limit_db < top:
        parts.append(_grid_line(limit_db, top, "limit"))
    parts += [_line(name, points, colors[name], places, top) for name, points in series.items()]
    parts.append(f'<text x="{LEFT}" y="{PLOT_HEIGHT - 4}">first operator</text>')
    parts.append(f'<text x="{WIDTH - 12}" y="{PLOT_HEIGHT - 4}" text-anchor="end">last</text>')
    return _svg(WIDTH, PLOT_HEIGHT, "SQNR after each operator, in dB", parts)


def _line(name: str, points: Sequence[tuple[str, float]], color: int, places: Mapping[str, float], top: float) -> str:
    spots = [(places[node], _height(value, top), node, value) for node, value in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in spots)
    dots = "".join(
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{DOT_RADIUS}">'
        f"<title>{escape(name)}: {escape(node)}, {value:.1f} dB</title></circle>"
        for x, y, node, value in spots
    )
    return f'<g class="v{color % 6}"><polyline class="path" points="{path}"/>{dots}</g>'


def _grid_line(value: float, top: float, kind: str) -> str:
    y = _height(value, top)
    return (
        f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _height(value: float, top: float) -> float:
    share = min(max(value / top, 0.0), 1.0)
    return PLOT_HEIGHT - BOTTOM - (PLOT_HEIGHT - BOTTOM - TOP) * share


def _ceiling(values: Sequence[float]) -> float:
    """Return the upper end of the axis: a multiple of 20 above 90% of the values. Exact operators may exceed the chart."""
    ordered = sorted(values)
    return max(40.0, 20.0 * -(-ordered[int(0.9 * (len(ordered) - 1))] // 20))


def _svg(width: float, height: float, description: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">{"".join(parts)}</svg>'
