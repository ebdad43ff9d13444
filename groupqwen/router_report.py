"""The page of `groupqwen router report`: one HTML file that needs nothing else, with its curves drawn as SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from configs.routing import Routing
from deployments.classifier.learned import Learned
from deployments.router.calibration import Calibration, joint_threshold
from deployments.router.drift import drift

WIDTH, HEIGHT, EDGE = 320, 260, 34

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
td { text-align: right } td:first-child, th { text-align: left } figure { display: inline-block; margin: 0 1rem
1rem 0 } figcaption { font-size: .85rem; color: #555 } .alarm { color: #a00; font-weight: 600 }
"""

Points = Sequence[tuple[float, float]]


def page(
    learned: Learned | None, calibration: Calibration | None, said: Sequence[Mapping[str, Any]], routing: Routing
) -> str:
    """`said`: rows of `LedgerStore.labelled`, in order."""
    parts = [
        "<h1>What the router has learned</h1>",
        _learned(learned),
        _calibrated(calibration, routing),
        _since(said, routing),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>GroupQwen: the router</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _learned(learned: Learned | None) -> str:
    if learned is None:
        return "<h2>Who answers what right</h2><p>Nothing yet: <code>groupqwen router train</code>.</p>"
    measures = learned.about["measures"]
    rows = [
        [name, *(f"{one[figure]:.3f}" for figure in ("right", "auroc", "calibration_error"))]
        for name, one in measures["variants"].items()
    ]
    pairs = [[pair, f"{one['apgr']:.3f}"] for pair, one in measures["pairs"].items()]
    return (
        f"<h2>Who answers what right</h2><p>{int(learned.about['questions']):,} questions, each held out once; "
        f"data sha256 <code>{html.escape(str(learned.about['data'])[:16])}</code>.</p>"
        + _table(["variant", "right", "AUROC", "calibration error"], rows)
        + (_table(["pair", "APGR (chance: 0.5)"], pairs) if pairs else "")
    )


def _calibrated(calibration: Calibration | None, routing: Routing) -> str:
    if calibration is None or not calibration.variants:
        return "<h2>What confidence is worth</h2><p>Nothing yet: <code>groupqwen router calibrate</code>.</p>"
    drawings, rows = [], []
    for name, one in calibration.about["measures"].items():
        lines = {
            "exp(mean log-probability)": [(x, y) for x, y, _ in one["reliability_before"]],
            "calibrated": [(x, y) for x, y, _ in one["reliability"]],
        }
        drawings.append(_figure(f"{name}: said, and came true", {"": [(0.0, 0.0), (1.0, 1.0)], **lines}))
        figures = ("right", "auroc", "calibration_error_before", "calibration_error")
        rows.append([name, f"{one['answers']:,}", *(f"{one[figure]:.3f}" for figure in figures)])
    evidence = [(one.evidence.scores[-1], one.evidence) for one in calibration.variants.values()]
    target = routing.escalation.target
    found = joint_threshold(evidence, target)
    wanted = (
        f"accepted and wrong ≤ {target.accepted_wrong:.0%}"
        if target.accepted_wrong is not None
        else f"{target.quality:.0%} of the largest variant's quality"
    )
    promise = (
        "no answer can be accepted yet: more labels, or a lower target, are needed"
        if found.never
        else f"answers with P(right) ≥ {found.value:.2f} are accepted, {found.accepted:.0%} of those labelled"
    )
    return (
        "<h2>What confidence is worth</h2>"
        + _table(["variant", "answers", "right", "AUROC", "ECE before", "ECE after"], rows)
        + f"<p>Target: {wanted} with {target.confidence:.0%} confidence; {promise}.</p>"
        + "".join(drawings)
    )


def _since(said: Sequence[Mapping[str, Any]], routing: Routing) -> str:
    title = "<h2>Whether it still holds</h2>"
    if not said:
        return title + "<p>Nothing was said of answers yet (<code>POST /v1/feedback</code>, shadow runs).</p>"
    rows, drawings = [], []
    for name in sorted({str(row["variant"]) for row in said}):
        mine = [row for row in said if row["variant"] == name]
        known = [(float(row["expected"]), float(row["correct"])) for row in mine if row["expected"] is not None]
        found = drift(known, routing.learning.drift_alarm)
        alarm = (
            "" if found.since is None else f"<span class=alarm>drifted after {found.since + 1}: train anew</span>"
        )
        right = sum(float(row["correct"]) for row in mine) / len(mine)
        rows.append(
            [name, str(len(mine)), f"{right:.2f}", f"{found.said:.2f}" if known else "-", alarm or "holds"]
        )
        running = [
            (place / max(1, len(mine) - 1), sum(float(row["correct"]) for row in mine[: place + 1]) / (place + 1))
            for place in range(len(mine))
        ]
        drawings.append(_figure(f"{name}: right so far, over its answers", {"": running}))
    return (
        title
        + _table(["variant", "verdicts", "right", "expected", ""], rows, marked=4)
        + f"<p>A false alarm has a chance of {routing.learning.drift_alarm:.0%}.</p>"
        + "".join(drawings)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    """`marked`: the column that is HTML already."""
    cells = [
        "".join(f"<td>{one if place == marked else html.escape(one)}</td>" for place, one in enumerate(row))
        for row in rows
    ]
    heads = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _figure(caption: str, lines: Mapping[str, Points]) -> str:
    """A plot with both axes from 0 to 1."""
    colours = ("#999", "#c60", "#06c") if len(lines) > 1 else ("#06c",) * len(lines)

    def place(x: float, y: float) -> str:
        return f"{EDGE + x * (WIDTH - 2 * EDGE):.1f},{HEIGHT - EDGE - y * (HEIGHT - 2 * EDGE):.1f}"

    drawn, keys = [], []
    for index, ((name, points), colour) in enumerate(zip(lines.items(), colours, strict=True)):
        path = " ".join(place(min(1, max(0, x)), min(1, max(0, y))) for x, y in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if name:
            keys.append(
                f'<text x="{EDGE + 6}" y="{EDGE + 4 + 14 * index}" fill="{colour}">{html.escape(name)}</text>'
            )
    frame = f'<rect x="{EDGE}" y="{EDGE}" width="{WIDTH - 2 * EDGE}" height="{HEIGHT - 2 * EDGE}"'
    ticks = "".join(
        _text(EDGE + value * (WIDTH - 2 * EDGE), HEIGHT - EDGE + 16, f"{value:g}", 'text-anchor="middle"')
        + _text(EDGE - 6, HEIGHT - EDGE - value * (HEIGHT - 2 * EDGE) + 4, f"{value:g}", 'text-anchor="end"')
        for value in (0, 0.5, 1)
    )
    svg = f'<svg width="{WIDTH}" height="{HEIGHT}" font-size="11" role="img">{frame} fill="none" stroke="#ccc"/>'
    drawing = f"{svg}{ticks}{''.join(drawn)}{''.join(keys)}</svg>"
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _text(x: float, y: float, content: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{content}</text>'
