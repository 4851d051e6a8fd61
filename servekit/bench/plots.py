"""Pictures of figures as SVG texts, drawn by matplotlib (the extra servekit[bench])."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (6.4, 3.4)
MAX_TICKS = 8
# Text stays text, and the same figures give the same bytes.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "servekit", "font.size": 9.0}

Points = Sequence[tuple[float, float]]


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Points], *, log_y: bool = False) -> str:
    """A line for each series over a logarithmic x; "" where there are no points."""
    shown = {
        name: sorted((x, y) for x, y in points if x > 0 and (y > 0 or not log_y)) for name, points in series.items()
    }
    levels = sorted({x for points in shown.values() for x, _ in points})
    if not levels:
        return ""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _figure(title, x_label, y_label)
        for name, points in shown.items():
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.set_xscale("log")
        axes.set_xticks(levels[:: math.ceil(len(levels) / MAX_TICKS)], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(_formatted)
        if log_y:
            axes.set_yscale("log")
            axes.tick_params(axis="y", which="minor", labelleft=False)
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_formatted)
        if len(shown) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def bars(title: str, x_label: str, y_label: str, values: Sequence[tuple[str, float]]) -> str:
    """A bar for each value; "" of none."""
    if not values or max(value for _, value in values) <= 0:
        return ""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _figure(title, x_label, y_label)
        places = range(len(values))
        axes.bar(places, [value for _, value in values], width=0.84)
        every = math.ceil(len(values) / MAX_TICKS)
        axes.set_xticks(places[::every], [_plain(name) for name, _ in values[::every]])
        axes.yaxis.set_major_formatter(_formatted)
        return _svg(figure)


def number(value: float) -> str:
    """As short as it can be read: 12,300, 1.5, 0.002."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _formatted(value: float, place: float) -> str:  # noqa: ARG001 - matplotlib passes it
    return number(value)


def _figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_plain(title), fontweight="bold")
    axes.set_xlabel(_plain(x_label))
    axes.set_ylabel(_plain(y_label))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _plain(text: str) -> str:
    """A dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    drawn = io.StringIO()
    # Without its maker's address: a report names no host.
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return drawn.getvalue()
