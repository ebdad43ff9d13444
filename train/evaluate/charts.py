"""A job's curves as SVG that stands in a page: no files, no scripts, in the page's own colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

INK = "#010203"
"""Becomes the page's own colour of text."""
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7")
Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], x: str, y: str) -> str:
    """One line for each series that has points; empty where none has."""
    shown = {name: points for name, points in series.items() if points}
    if not shown:
        return ""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # (`hashsalt`: the same curves give the same page.)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "groupqwen", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, points), colour in zip(shown.items(), COLOURS, strict=False):
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, label=name, color=colour, marker="o" if len(points) < 40 else None, markersize=3)
        axes.set_xlabel(x, color=INK)
        axes.set_ylabel(y, color=INK)
        axes.tick_params(colors=INK)
        axes.grid(alpha=0.15, color=INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        axes.legend(frameon=False, labelcolor=INK)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(INK, "currentColor")
