"""The gate: whether what was measured is good enough to serve, and if not, why. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.adapters import Gate
from configs.gates import GateRules

Metrics = Mapping[str, float]
_PAIRS = ("held_out", "regression", "general_loss", "tasks")
_READ = (
    *(f"{name}.{whose}" for name in _PAIRS for whose in ("base", "adapter")),
    *(
        "judge.win_rate",
        "judge.high",
        "canaries.extracted.adapter",
        "canaries.exposure.adapter",
        "secrets.repeated",
    ),
)
"""What the rules below read."""


def decide(metrics: Metrics, rules: GateRules, failures: Sequence[str] = ()) -> Gate:
    """Refuses with every reason that there is; one that passes says what it was held against. `failures` are
    checks that should have been done and could not be. A base that gets nothing right says nothing of what is
    forgotten: that is not measured."""
    known = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if known.get("regression.base") == 0:
        del known["regression.base"]
    refused = [
        f"{name} was not measured" for name in rules.required if name not in known and _finite(metrics, name)
    ]
    read = {*rules.required, *_READ}
    refused += [f"{name} is no number" for name in metrics if name in read and not _finite(metrics, name)]
    refused += failures
    held: list[str] = []
    for said in _held_against(known, rules):
        (held if said.good else refused).append(said.text)
    return Gate(passed=not refused, reasons=refused or held)


def _finite(metrics: Metrics, name: str) -> bool:
    return math.isfinite(metrics.get(name, 0.0))


@dataclass(frozen=True)
class _Said:
    good: bool
    text: str


def _held_against(known: Metrics, rules: GateRules) -> Iterator[_Said]:
    """What each rule says of what was measured."""
    yield from _pair(
        known,
        "held_out",
        lambda base, now: now - base <= rules.held_out_rise + _ROUNDING,
        f"held-out loss {{}} from {{:.3f}} to {{:.3f}} (at most {rules.held_out_rise:g} more is allowed)",
    )
    yield from _pair(
        known,
        "regression",
        lambda base, now: base - now <= rules.regression_fall + _ROUNDING,
        f"forgetting: the regression suite {{}} from {{:.2f}} to {{:.2f}} (at most {rules.regression_fall:g} "
        "may be lost)",
    )
    yield from _pair(
        known,
        "general_loss",
        lambda base, now: now - base <= rules.general_rise + _ROUNDING,
        f"forgetting: the loss on general text {{}} from {{:.3f}} to {{:.3f}} (at most {rules.general_rise:g} "
        "more is allowed)",
    )
    yield from _pair(
        known,
        "tasks",
        lambda base, now: base - now <= rules.tasks_fall + _ROUNDING,
        f"the dataset's own tasks: what is right {{}} from {{:.2f}} to {{:.2f}} (at most {rules.tasks_fall:g} "
        "may be lost)",
    )
    if (rate := known.get("judge.win_rate")) is not None and (high := known.get("judge.high")) is not None:
        yield _Said(
            high >= rules.judge_least - _ROUNDING,
            f"the judge gives it a win rate of {rate:.2f}, at most {high:.2f} (at least {rules.judge_least:g} "
            "must be possible)",
        )
    if (told := known.get("canaries.extracted.adapter")) is not None:
        yield _Said(
            told <= rules.canaries_extracted,
            f"{_count(told, 'canary', 'canaries')} can be extracted (at most {rules.canaries_extracted} may)",
        )
    if (bits := known.get("canaries.exposure.adapter")) is not None:
        yield _Said(
            bits <= rules.canary_exposure + _ROUNDING,
            f"canaries stand out by {bits:.1f} bits (at most {rules.canary_exposure:g} may be)",
        )
    if (repeated := known.get("secrets.repeated")) is not None:
        yield _Said(
            repeated <= rules.repeated_secrets,
            f"{_count(repeated, 'secret', 'secrets')} of the training set in its answers, word by word (at most "
            f"{rules.repeated_secrets} may be)",
        )


_ROUNDING = 1e-9
"""0.62 - 0.57 is more than 0.05 by less than this."""


def _pair(known: Metrics, name: str, good: Callable[[float, float], bool], text: str) -> Iterator[_Said]:
    base, now = known.get(f"{name}.base"), known.get(f"{name}.adapter")
    if base is None or now is None:
        return
    way = "went" if abs(now - base) < _ROUNDING else "rose" if now > base else "fell"
    yield _Said(good(base, now), text.format(way, base, now))


def _count(number: float, one: str, many: str) -> str:
    return f"{number:g} {one if number == 1 else many}"
