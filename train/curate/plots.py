"""The histograms of a dataset's card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from train.conversation import Conversation

BINS = 30


def histograms(train: Sequence[Conversation], validation: Sequence[Conversation], path: Path) -> None:
    """Turns, and letters of questions and of answers, of both parts: one PNG. The same data, the same bytes."""
    figure = Figure(figsize=(9.0, 3.2), dpi=110)
    # (Fixed: an engine that lays it out draws everything twice.)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.17, top=0.96, wspace=0.2)
    panels = figure.subplots(1, 3)
    parts = (("train", train), ("validation", validation))
    _bars(
        panels[0],
        "turns of a conversation",
        [(n, [len(c.messages) for c in part]) for n, part in parts],
        log=False,
    )
    for axes, role, title in (
        (panels[1], "user", "letters of a question"),
        (panels[2], "assistant", "letters of an answer"),
    ):
        lengths = [(n, [len(m.content) for c in part for m in c.messages if m.role == role]) for n, part in parts]
        _bars(axes, title, lengths, log=True)
    panels[0].set_ylabel("how many")
    panels[0].legend(fontsize=8, frameon=False)
    # (Without the version of matplotlib, which would be in the file.)
    figure.savefig(path, metadata={"Software": None})


def _bars(axes: Any, title: str, series: Sequence[tuple[str, list[int]]], log: bool) -> None:
    values = [max(1, value) for _, part in series for value in part]
    top = max(values, default=1)
    if log:
        edges = np.geomspace(1, max(2, top), BINS + 1)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        edges = np.linspace(0.5, top + 0.5, min(BINS, top) + 1)
    axes.hist(
        [[max(1, v) for v in part] for _, part in series],
        edges,
        stacked=True,
        histtype="stepfilled",
        label=[n for n, _ in series],
    )
    axes.set_xlabel(title, fontsize=9)
    axes.tick_params(labelsize=8)
