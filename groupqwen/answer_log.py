"""A log of answers to replay: which model said what about which question, how sure it was, and what it took.

The columns are those of docs/EVALUATION.md; CSV or JSON lines, gzipped or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.routing import load_routing
from deployments.classifier.rules import classify
from deployments.router.calibrating import Answered
from deployments.router.confidence import Signals, signals_of
from groupqwen.outcomes import RIGHT, OutcomesError, rows_of

Values = npt.NDArray[np.float64]

ALIASES = {"mean_logprob": ("mean_logprob", "mean logprob", "logprob"), "margin": ("margin",)}


@dataclass(frozen=True)
class Log:
    """`models`: the cheapest first. `answers`, and the rest: by model, in the order of `questions`."""

    questions: Sequence[str]
    groups: Sequence[str]
    models: Sequence[str]
    ok: Mapping[str, Values]
    cost: Mapping[str, Values]
    latency: Mapping[str, Values]
    answers: Mapping[str, Sequence[Answered]] = field(default_factory=dict)

    def silent(self, model: str) -> bool:
        """Whether nothing is known of how sure it was."""
        return not any(one.signals.mean_logprob for one in self.answers[model])

    def labelled(
        self, model: str, rows: npt.NDArray[np.intp] | None = None, priors: Values | None = None
    ) -> list[Answered]:
        """A model's answers to some questions (None: all), beside whether the last model was right; `priors`:
        P(right) before the answer, for each of them."""
        last = self.ok[self.models[-1]]
        found = []
        for place, row in enumerate(np.arange(len(self.questions)) if rows is None else rows):
            one = self.answers[model][row]
            prior = None if priors is None else float(priors[place])
            found.append(Answered(**{**one.__dict__, "prior": prior, "largest_ok": bool(last[row] > 0.5)}))
        return found


def read_log(path: Path, tiers: Sequence[str] = ()) -> Log:
    """`tiers`: the models, from the smallest on; unset: by mean cost. Raises `OutcomesError`."""
    by_question: dict[str, dict[str, dict[str, Any]]] = {}
    for line, row in rows_of(path):
        question, model = str(row.get("question") or "").strip(), str(row.get("model") or "").strip()
        if not question or not model:
            raise OutcomesError(f"{path}, line {line}: it needs `question` and `model`")
        by_question.setdefault(question, {})[model] = _parsed(path, line, row)
    models = list(dict.fromkeys(model for answers in by_question.values() for model in answers))
    unknown = set(tiers) - set(models)
    if unknown:
        raise OutcomesError(f"{path} has no model {', '.join(sorted(unknown))}; there are {', '.join(models)}")
    models = list(tiers) or models
    questions = [question for question, answers in by_question.items() if set(models) <= answers.keys()]
    if len(models) < 2 or not questions:
        raise OutcomesError(f"{path}: at least two models must have answered the same questions")

    def column(model: str, name: str) -> Values:
        return np.array([by_question[question][model][name] for question in questions], float)

    cost = {model: column(model, "cost") for model in models}
    if not tiers:
        models.sort(key=lambda model: float(cost[model].mean()))
    for model in models:
        answered = [by_question[question][model] for question in questions]
        silent = [one["line"] for one in answered if not one["known"]]
        # Of the largest, all or nothing: a part of its answers would be taken for certain.
        if silent and (model != models[-1] or len(silent) < len(answered)):
            raise OutcomesError(
                f"{path}, line {silent[0]}: `mean_logprob` must be a number; only the largest model "
                f"({models[-1]}) may be without, in all of its lines"
            )
    rules = load_routing()
    # The families that the Router will see, whatever the log calls them: a calibration for others would be of no
    # use.
    groups = [classify([{"role": "user", "content": question}], rules).task for question in questions]
    answers = {
        model: [
            _answered(question, group, by_question[question][model])
            for question, group in zip(questions, groups, strict=True)
        ]
        for model in models
    }
    latency = {model: column(model, "latency") for model in models}
    return Log(
        questions,
        groups,
        models,
        {model: column(model, "ok") for model in models},
        cost,
        latency,
        answers,
    )


def _parsed(path: Path, line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    ok = RIGHT.get(str(row.get("correct")).strip().lower())
    if ok is None:
        raise OutcomesError(f"{path}, line {line}: `correct` must be 0 or 1")
    # Of the largest it need not be known: nobody judges it.
    known = any(row.get(name) not in (None, "") for name in ALIASES["mean_logprob"])
    mean = _number(path, line, row, ALIASES["mean_logprob"], None) if known else 0.0
    logprobs, margins = (_numbers(path, line, row, name) for name in ("logprobs", "margins"))
    if len(logprobs) != len(margins):
        raise OutcomesError(f"{path}, line {line}: {len(logprobs)} `logprobs` have {len(margins)} `margins`")
    return {
        "line": line,
        "ok": ok,
        "known": known,
        "mean_logprob": mean,
        # Without it, an answer's least likely tokens are not known: the mean stands for them.
        "low_logprob": _number(path, line, row, ("low_logprob",), mean),
        "margin": _number(path, line, row, ALIASES["margin"], 0.0),
        "cost": _number(path, line, row, ("cost", "cost_usd"), None),
        "latency": _number(path, line, row, ("latency", "latency_s"), 0.0),
        "tokens": int(_number(path, line, row, ("tokens",), 0.0)),
        "logprobs": logprobs,
        "margins": margins,
    }


def _number(path: Path, line: int, row: Mapping[str, Any], names: Sequence[str], otherwise: float | None) -> float:
    given = next((row[name] for name in names if row.get(name) not in (None, "")), otherwise)
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise OutcomesError(f"{path}, line {line}: `{names[0]}` must be a number, not {given!r}")
    return value


def _numbers(path: Path, line: int, row: Mapping[str, Any], name: str) -> list[float]:
    """A list, or JSON of one (in CSV); empty where there is none."""
    value = row.get(name) or []
    try:
        return [float(one) for one in (json.loads(value) if isinstance(value, str) else value)]
    except (TypeError, ValueError) as error:
        raise OutcomesError(f"{path}, line {line}: `{name}` must be a list of numbers") from error


def _answered(question: str, group: str, row: Mapping[str, Any]) -> Answered:
    # Where its tokens are there, they are what the Router would see: a count that holds an end token is another
    # one.
    signals = signals_of(row["logprobs"], row["margins"]) or Signals(
        row["mean_logprob"], row["margin"], row["low_logprob"], row["tokens"]
    )
    return Answered(question, signals, row["ok"] > 0.5, group, row["logprobs"], row["margins"])
