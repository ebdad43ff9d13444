"""The tables of a replayed log: quality, cost and time of cascades beside what else one could do with the same
models, what confidence was worth, and whether the bound was kept.

A question that is escalated costs all answers that were asked for; the live Router stops an unsure one earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from benchmarks.machine import console, show
from benchmarks.many_models import mixture
from benchmarks.replay import SEED, Fold, Held, Policy, Values, direct, replay
from configs.escalation import Target
from deployments.classifier.measures import chance_error, expected_calibration_error
from deployments.router.bounds import Threshold
from deployments.router.calibrating import reliability
from groupqwen.answer_log import Log, read_log

HALVES = 20
"""Random halves on which the bound is checked."""


def main(path: Path, target: Target, tiers: Sequence[str], plots: Path | None) -> None:
    """Replay a log."""
    log = read_log(path, tiers)
    learns = len(log.questions) >= 150
    held, policies, promises = replay(log, target, learns)
    report(log, policies, target)
    _calibration_table(log, held)
    _curve_table(log, held)
    _promise_table(log, target, promises)
    if plots is not None:
        from benchmarks.plots import cascade_plots

        cascade_plots(log, policies, held, plots)
        console.print(f"Plots: {plots}")


def report(log: Log, policies: Sequence[Policy], target: Target) -> None:
    """Quality, cost and time of every policy."""
    last = log.models[-1]
    wanted = (
        f"accepted and wrong ≤ {target.accepted_wrong:.0%}"
        if target.accepted_wrong is not None
        else f"{target.quality:.0%} of {last}'s quality"
    )
    rows = []
    for one in policies:
        ok, cost, latency = one.ok(log), one.of(log, dict(log.cost)), one.of(log, dict(log.latency))
        accepted_and_wrong = ((one.tier < len(log.models) - 1) & (ok < 0.5)).mean()
        rows.append(
            [
                one.name,
                f"{ok.mean():.3f}",
                _ratio(float(ok.mean()), float(log.ok[last].mean())),
                f"{(one.tier == len(log.models) - 1).mean():.0%}",
                _ratio(float(cost.mean()), float(log.cost[last].mean())),
                _ratio(float(np.median(latency)), float(np.median(log.latency[last]))),
                f"{accepted_and_wrong:.3f}",
            ]
        )
    show(
        f"{len(log.questions):,} questions, target: {wanted} with {target.confidence:.0%} confidence",
        [
            "policy",
            "right",
            "÷ always the last",
            "answered by the last",
            "cost ÷ always the last",
            "median time ÷ its",
            "accepted and wrong",
        ],
        rows,
    )


def _ratio(value: float, of: float) -> str:
    return f"{value / of:.2f}" if of else "-"


def _calibration_table(log: Log, held: Held) -> None:
    rows = [
        [
            name,
            f"{log.ok[name].mean():.3f}",
            f"{expected_calibration_error(held.raw[k], log.ok[name]):.3f}",
            f"{expected_calibration_error(held.sure_alone[k], log.ok[name]):.3f}",
            f"{chance_error(held.sure_alone[k]):.3f}",
        ]
        for k, name in enumerate(log.models)
        if not log.silent(name)
    ]
    show(
        "How well confidence is calibrated, on answers that were not learned from (ECE, ten bins of equal width)",
        ["model", "right", "exp(mean log-probability)", "calibrated", "a perfect one's, by chance"],
        rows,
    )


def _curve_table(log: Log, held: Held) -> None:
    """What any threshold could have done, chosen in hindsight: no promise goes with it."""
    goal = 0.95 * float(log.ok[log.models[-1]].mean())
    rows = []
    for name, points in curves(log, held).items():
        enough = [cost for cost, right in points if right >= goal]
        rows.append([name, f"{min(enough):.2f}" if enough else "never"])
    always = [(float(log.ok[name].mean()), float(log.cost[name].mean())) for name in log.models]
    rows.append(["the best mix of two at random", f"{mixture(always, goal) / always[-1][1]:.2f}"])
    show("The least cost with 95 % of the last one's quality, along each curve", ["policy", "cost ÷ its"], rows)


def _promise_table(log: Log, target: Target, promises: Sequence[Threshold]) -> None:
    """Whether the bound holds: on random halves, one to learn from and one to look at."""
    kept, realised, count = 0, [], len(log.questions)
    draw = np.random.default_rng(SEED)
    for _ in track(range(HALVES), "checking the bound", console=console):
        order = draw.permutation(count)
        train, test = order[: count // 2], order[count // 2 :]
        found = Fold(log, target, train, test).cascade(None, None)
        ok = np.array([log.ok[name][test] for name in log.models])[found.tier, np.arange(len(test))]
        if target.accepted_wrong is not None:
            realised.append(float(((found.tier < len(log.models) - 1) & (ok < 0.5)).mean()))
            kept += realised[-1] <= target.accepted_wrong
        else:
            assert target.quality is not None
            realised.append(float(ok.mean() / max(1e-9, log.ok[log.models[-1]][test].mean())))
            kept += realised[-1] >= target.quality
    never = sum(one.never for one in promises)
    show(
        f"The promise on {HALVES} random halves of {count - count // 2:,} questions that were held out",
        ["promised", "realised, mean", "worst", "halves in which it was kept"],
        [
            [
                f"≥ {target.quality:.3f}" if target.quality else f"≤ {target.accepted_wrong:.3f}",
                f"{np.mean(realised):.3f}",
                f"{(max if target.accepted_wrong is not None else min)(realised):.3f}",
                f"{kept} of {HALVES}",
            ]
        ],
    )
    if never:
        console.print(
            f"[yellow]In {never} of {len(promises)} folds labels were too few, or models too weak, to accept "
            "any of its answers: everything goes to a larger one.[/yellow]"
        )


def curves(log: Log, held: Held) -> dict[str, list[tuple[float, float]]]:
    """Cost (÷ always the last) and quality for every threshold: one for all tiers of the cascade; of what was
    learned, on the gain."""
    tiers, last = len(log.models), log.models[-1]
    full = float(log.cost[last].mean())
    grid = np.linspace(0, 1, 41)

    def points(make: Callable[[float], Policy]) -> list[tuple[float, float]]:
        found = [make(float(value)) for value in grid]
        return [(float(one.of(log, dict(log.cost)).mean()) / full, float(one.ok(log).mean())) for one in found]

    def cascade(sure: Values) -> Callable[[float], Policy]:
        def make(value: float) -> Policy:
            tier, asked = np.full(sure.shape[1], tiers - 1), np.zeros(sure.shape, bool)
            waiting = np.ones(sure.shape[1], bool)
            for k in range(tiers):
                asked[k] = waiting
                accepted = waiting & ((sure[k] >= value) if k < tiers - 1 else waiting)
                tier[accepted] = k
                waiting = waiting & ~accepted
            return Policy("", tier, asked)

        return make

    def learned(value: float) -> Policy:
        gain = held.prior[-1][None, :] - held.prior
        good = gain <= np.quantile(gain[:-1], value)
        return direct("", np.where(good.any(axis=0), good.argmax(axis=0), tiers - 1), tiers)

    found = {"cascade": points(cascade(held.sure_alone))}
    if len(np.unique(held.prior)) > 1:
        found |= {"learned": points(learned), "learned + cascade": points(cascade(held.sure))}
    return found


def bins(log: Log, held: Held, tier: int) -> tuple[list[tuple[float, float, int]], list[tuple[float, float, int]]]:
    """Reliability before and after calibration."""
    ok = log.ok[log.models[tier]]
    return reliability(held.raw[tier], ok), reliability(held.sure_alone[tier], ok)
