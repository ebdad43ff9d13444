"""The plots of docs/: cost against quality, what confidence was worth, time beside always asking the largest; and
memory under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.machine import machine

if TYPE_CHECKING:
    from benchmarks.growth import Watched
    from benchmarks.replay import Held, Policy
    from groupqwen.answer_log import Log

SIZE = (7.0, 4.5)
DPI = 110


def cascade_plots(log: Log, policies: Sequence[Policy], held: Held, folder: Path) -> None:
    """`cascade_cost_quality.png`, `cascade_reliability.png`, `cascade_time.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    _cost_quality(log, policies, held, folder / "cascade_cost_quality.png")
    _reliability(log, held, folder / "cascade_reliability.png")
    _time(log, policies, folder / "cascade_time.png")


def memory_plot(watched: Watched, variants: Sequence[str], services: Sequence[str], path: Path) -> None:
    """What each process has resident: variants, other replicas, and what they run on (`services`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replicas = [name for name in watched.series if name not in (*variants, *services)]
    figure, panels = plt.subplots(3, 1, figsize=(SIZE[0], 7.5), sharex=True)
    for axes, title, names in zip(
        panels, ("variants", "other replicas", "services"), (variants, replicas, services), strict=True
    ):
        shown = [name for name in sorted(names) if name in watched.series]
        for name, colour in zip(shown, plt.get_cmap("tab20").colors, strict=False):
            one = watched.series[name]
            axes.plot([second / 60 for second in one.seconds], one.mib, linewidth=1, label=name, color=colour)
        axes.axvline(1, linestyle=":", color="grey", linewidth=1)
        axes.set(title=title, ylabel="resident, MiB")
        axes.set_yscale("log") if names is services else axes.set_ylim(bottom=0)
        axes.title.set_fontsize(9)
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    panels[-1].set_xlabel("minutes of load (dotted: the end of the first)")
    _save(figure, path)


def _cost_quality(log: Log, policies: Sequence[Policy], held: Held, path: Path) -> None:
    from benchmarks.cascade import curves

    figure, axes = plt.subplots(figsize=SIZE)
    for name, points in curves(log, held).items():
        axes.plot(*zip(*sorted(points), strict=True), label=name)
    full = float(log.cost[log.models[-1]].mean())
    places = [
        (float(one.of(log, dict(log.cost)).mean()) / full, float(one.ok(log).mean()), one.name) for one in policies
    ]
    always = sorted(place for place in places if place[2].startswith("always"))
    axes.plot([x for x, _, _ in always], [y for _, y, _ in always], ":", color="grey", label="a mix at random")
    for x, y, name in places:
        if name.startswith("always") or name in ("oracle", "cascade", "learned + cascade"):
            axes.plot(x, y, "o", color="black", markersize=4)
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, -9), fontsize=7)
    axes.set(xlabel=f"cost ÷ always {log.models[-1]}", ylabel="right")
    axes.set_title(f"{len(log.questions):,} questions, held out")
    axes.legend(fontsize=8, loc="lower right")
    _save(figure, path)


def _reliability(log: Log, held: Held, path: Path) -> None:
    from benchmarks.cascade import bins

    shown = [(k, name) for k, name in enumerate(log.models) if not log.silent(name)]
    width = 3.2 * len(shown)
    figure, panels = plt.subplots(1, len(shown), figsize=(width, 3.4), sharey=True, squeeze=False)
    for axes, (k, name) in zip(panels[0], shown, strict=True):
        before, after = bins(log, held, k)
        axes.plot([0, 1], [0, 1], ":", color="grey")
        axes.plot([x for x, _, _ in before], [y for _, y, _ in before], "o-", label="exp(mean log-probability)")
        axes.plot([x for x, _, _ in after], [y for _, y, _ in after], "s-", label="calibrated")
        axes.set(title=name, xlabel="said", xlim=(0, 1), ylim=(0, 1))
        axes.title.set_fontsize(9)
    panels[0][0].set_ylabel("came true")
    panels[0][0].legend(fontsize=7)
    _save(figure, path)


def _time(log: Log, policies: Sequence[Policy], path: Path) -> None:
    figure, axes = plt.subplots(figsize=SIZE)
    for one in policies:
        if one.name.startswith("always") or one.name in ("cascade", "learned + cascade"):
            seconds = np.sort(one.of(log, dict(log.latency)))
            axes.plot(seconds, np.linspace(0, 1, len(seconds)), label=one.name)
    axes.set(xlabel="seconds until the whole answer", ylabel="share of the questions", xscale="log")
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.text(0.99, 0.005, machine(), ha="right", fontsize=5, color="grey")
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
