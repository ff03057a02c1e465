"""Pictures in SVG: bars for servers, lines for growth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 900
COLOURS: Final = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c", "#495057")
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#212529}.head{font-weight:600}.note{fill:#868e96;font-size:11px}"
)


def bars(groups: Mapping[str, Sequence[tuple[str, float]]], chosen: str) -> str:
    """A block of bars for each group, to the scale of its largest; those of ``chosen`` stand out."""
    parts, y = [], 10
    for title, values in groups.items():
        if not values:
            continue
        top = max(value for _, value in values)
        y += 20
        parts.append(_text(0, y, title, "head"))
        for name, value in values:
            y += 20
            length = round((WIDTH - 300) * value / top, 1)
            colour = COLOURS[0] if name == chosen else "#ced4da"
            parts.append(_text(190, y, name, anchor="end"))
            parts.append(f'<rect x="200" y="{y - 12}" width="{length}" height="15" fill="{colour}"/>')
            parts.append(_text(206 + length, y, f"{value:,.0f}"))
        y += 8
    return _svg(y + 10, parts)


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line for each series over a logarithmic axis; the other one begins at zero."""
    left, right, top, bottom = 60, WIDTH - 180, 40, 260
    every = [point for points in series.values() for point in points]
    xs = sorted({x for x, _ in every})
    low, high, peak = math.log(xs[0]), math.log(xs[-1]), max(y for _, y in every)

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log(x) - low) / ((high - low) or 1)
        return round(left + (right - left) * along, 1), round(bottom - (bottom - top) * y / peak, 1)

    parts = [_text(0, 20, title, "head"), _text(right, bottom + 36, across, "note", "end")]
    for x in xs:
        at, _ = place(x, 0)
        parts.append(f'<path d="M{at} {top}V{bottom}" stroke="#e9ecef"/>')
        parts.append(_text(at, bottom + 18, f"{x:,.0f}", "note", "middle"))
    for y in (0, peak / 2, peak):
        _, at = place(xs[0], y)
        parts.append(f'<path d="M{left} {at}H{right}" stroke="#e9ecef"/>')
        parts.append(_text(left - 6, at + 4, f"{y:,.0f}", "note", "end"))
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        places = [place(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{right + 8}" y="{places[-1][1] + 4}" style="fill:{colour}">{escape(name)}</text>')
    return _svg(310, parts)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>\n"])
