"""Pictures of figures as SVG texts: a few lines and bars, which is all that a report needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 46, 46
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f")
MAX_TICKS = 8

Points = Sequence[tuple[float, float]]


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Points], *, log_y: bool = False) -> str:
    """A line for each series over a logarithmic x; "" where there are no points."""
    points = [point for each in series.values() for point in each if point[0] > 0 and (point[1] > 0 or not log_y)]
    if not points:
        return ""
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log=True)
    up = _Axis([y for _, y in points] + ([] if log_y else [0.0]), HEIGHT - BOTTOM, TOP, log=log_y)
    parts = _frame(title, x_label, y_label)
    for value in up.ticks:
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, number(value), "end"))
    for value in sorted({x for x, _ in points})[:MAX_TICKS]:
        parts.append(_text(across.at(value), HEIGHT - BOTTOM + 16, number(value), "middle"))
    for place, (name, each) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        shown = [(across.at(x), up.at(y), x, y) for x, y in sorted(each) if x > 0 and (y > 0 or not log_y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in shown)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(f'{name}: {number(value)} at {number(level)}')}</title></circle>"
            for x, y, level, value in shown
        ]
        parts.append(f'<rect x="{LEFT + 10 + place * 110}" y="{TOP - 18}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(LEFT + 26 + place * 110, TOP - 12, name, "start"))
    return _svg(parts, title)


def bars(title: str, x_label: str, y_label: str, values: Sequence[tuple[str, float]]) -> str:
    """A bar for each value; "" of none."""
    if not values or max(value for _, value in values) <= 0:
        return ""
    up = _Axis([0.0, *(value for _, value in values)], HEIGHT - BOTTOM, TOP, log=False)
    parts = _frame(title, x_label, y_label)
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, number(tick), "end"))
    step = (WIDTH - LEFT - RIGHT) / len(values)
    every = math.ceil(len(values) / MAX_TICKS)
    for i, (name, value) in enumerate(values):
        x, y = LEFT + i * step, up.at(value)
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{y:.1f}" width="{step * 0.84:.1f}" '
            f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{COLOURS[0]}">'
            f"<title>{escape(f'{name}: {number(value)}')}</title></rect>"
        )
        if i % every == 0:
            parts.append(_text(x + step / 2, HEIGHT - BOTTOM + 16, name, "middle"))
    return _svg(parts, title)


def number(value: float) -> str:
    """As short as it can be read: 12,300, 1.5, 0.002."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class _Axis:
    """Values to pixels, and where its ticks are."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log else (min(0.0, low), high or 1.0)
        self._start, self._end, self._log = start, end, log
        if log:
            self.ticks = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
            self._low, self._high = math.log10(low), math.log10(high)
            self.ticks = [tick for tick in self.ticks if low <= tick <= high] or [low, high]
        else:
            step = _step((high - low) / 5)
            high = math.ceil(high / step) * step
            self.ticks = [i * step for i in range(round(high / step) + 1)]
            self._low, self._high = low, high

    def at(self, value: float) -> float:
        place = math.log10(value) if self._log else value
        return self._start + (place - self._low) / (self._high - self._low) * (self._end - self._start)


def _step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _frame(title: str, x_label: str, y_label: str) -> list[str]:
    middle = (LEFT + WIDTH - RIGHT) / 2
    bottom, height = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        f'<text class="title" x="{middle}" y="18" text-anchor="middle">{escape(title)}</text>',
        _text(middle, HEIGHT - 8, x_label, "middle"),
        f'<text x="14" y="{height}" text-anchor="middle" transform="rotate(-90 14 {height})">{escape(y_label)}</text>',
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    inner = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n{inner}\n</svg>'
    )
