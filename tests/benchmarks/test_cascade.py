"""Replaying a log: its columns, the policies' arithmetic, and how written code is judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cascade import curves
from benchmarks.many_models import mixture
from benchmarks.questions import _chooses, _last_number, _says, _works
from benchmarks.replay import Policy, direct, replay
from configs.escalation import Target
from groupqwen.answer_log import read_log
from groupqwen.outcomes import OutcomesError
from tests.untraced import untraced

MODELS = {"small": (1.0, -1.0), "middle": (3.0, 0.0), "large": (9.0, 1.5)}
"""Cost, and log-odds of being right beside the question's ease."""


LINE = {"question": "q", "model": "m", "correct": 1, "mean_logprob": -0.1, "margin": 0.5, "cost": 1, "latency": 1}


def written(path: Path, count: int = 240) -> Path:
    """A log in which confidence says something."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        ease = float(rng.normal())
        subject = "easy things" if ease > 0 else "hard matters"
        for model, (cost, skill) in MODELS.items():
            p = 1 / (1 + math.exp(-(2 * ease + skill)))
            row = {
                "question": f"question {number} about {subject}",
                "model": model,
                "correct": int(rng.random() < p),
                "mean_logprob": -0.05 - 0.8 * (1 - p) * float(rng.uniform(0.7, 1.3)),
                "margin": 0.2 + 0.7 * p,
                "cost": cost,
                "latency": cost / 3,
            }
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


def test_a_log_is_read_with_the_cheapest_first(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.jsonl"))
    assert log.models == ["small", "middle", "large"]
    assert len(log.questions) == 240
    assert log.answers["small"][0].signals.low_logprob == log.answers["small"][0].signals.mean_logprob
    assert read_log(tmp_path / "log.jsonl", ["large", "small"]).models == ["large", "small"]


def test_tokens_are_counted_as_the_router_counts_them(tmp_path: Path) -> None:
    row = {"question": "q", "correct": 1, "mean_logprob": -9, "margin": 0, "cost": 1, "latency": 1, "tokens": 3}
    kept = {"logprobs": [-0.1, -0.3], "margins": [0.9, 0.5]}
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps({**row, **kept, "model": model}) for model in "ab"))
    signals = read_log(path).answers["a"][0].signals
    assert (signals.tokens, signals.mean_logprob) == (2, pytest.approx(-0.2)), "without the end token"


def test_csv_is_read_as_well_and_names_may_have_blanks(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{question},{model},1,-0.1,0.9,{cost},1" for question in "ab" for model, cost in (("x", 2), ("y", 1))]
    path.write_text("question,model,correct,mean logprob,margin,cost,latency\n" + "\n".join(rows) + "\n")
    log = read_log(path)
    assert log.models == ["y", "x"]
    assert log.answers["x"][0].signals.mean_logprob == -0.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"correct": "maybe"}, "`correct` must be 0 or 1"),
        ({"cost": "much"}, "`cost` must be a number"),
        ({"mean_logprob": None, "cost": 0.5}, "`mean_logprob` must be a number; only the largest model (m) may"),
        ({"mean_logprob": "low"}, "`mean_logprob` must be a number"),
        ({"question": ""}, "needs `question` and `model`"),
        ({"logprobs": "[1,"}, "`logprobs` must be a list of numbers"),
        ({"logprobs": [-0.1]}, "1 `logprobs` have 0 `margins`"),
    ],
)
def test_what_is_wrong_with_a_log_is_said_with_its_line(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "model": "n", **change}))
    with pytest.raises(OutcomesError, match="line 2") as raised:
        read_log(path)
    assert told in str(raised.value)


def test_the_largest_needs_no_confidence(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    silent = [
        {
            key: value
            for key, value in row.items()
            if row["model"] != "large" or key not in ("mean_logprob", "margin")
        }
        for row in rows
    ]
    (tmp_path / "silent.jsonl").write_text("\n".join(map(json.dumps, silent)))
    target = Target(accepted_wrong=0.1)
    with untraced():
        told, untold = (
            replay(read_log(one), target, learns=False)[1] for one in (path, tmp_path / "silent.jsonl")
        )
    assert [policy.tier.tolist() for policy in told] == [policy.tier.tolist() for policy in untold]
    (tmp_path / "half.jsonl").write_text("\n".join(map(json.dumps, rows[:300] + silent[300:])))
    with pytest.raises(OutcomesError, match="in all of its lines"):
        read_log(tmp_path / "half.jsonl")


def test_one_model_is_no_cascade(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(LINE))
    with pytest.raises(OutcomesError, match="two models"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(OutcomesError, match="no model x"):
        read_log(tmp_path / "log.jsonl", ["x"])


def test_policies_add_up_who_was_asked(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.jsonl"))
    always = direct("", np.full(240, 2), 3)
    assert always.of(log, dict(log.cost)).mean() == 9
    assert always.ok(log).mean() == log.ok["large"].mean()
    asked = np.ones((3, 240), bool)
    assert Policy("", np.full(240, 2), asked).of(log, dict(log.cost)).mean() == 13


def test_a_replay_keeps_its_promise_and_the_oracle_is_best(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.jsonl", 400))
    with untraced():
        held, policies, promises = replay(log, Target(accepted_wrong=0.1), learns=True)
    by_name = {policy.name: policy for policy in policies}
    assert {"always small", "learned", "cascade", "learned + cascade", "oracle"} <= set(by_name)
    quality = {name: float(policy.ok(log).mean()) for name, policy in by_name.items()}
    assert max(quality, key=lambda name: quality[name]) == "oracle"
    cascade = by_name["cascade"]
    assert cascade.tier.min() == 0, "something is accepted"
    wrong = ((cascade.tier < 2) & (cascade.ok(log) < 0.5)).mean()
    assert wrong <= 0.1
    assert all(promise.bound <= 0.1 for promise in promises)
    random = by_name["random, at the cascade's share"]
    assert quality["cascade"] > float(random.ok(log).mean())
    found = curves(log, held)["cascade"]
    assert found[0] != found[-1]


def test_a_mixture_costs_what_its_parts_do() -> None:
    assert mixture([(0.5, 1.0), (1.0, 3.0)], 0.75) == pytest.approx(2.0)
    assert mixture([(0.8, 1.0), (1.0, 3.0)], 0.75) == pytest.approx(1.0)


# -- judging answers
# ------------------------------------------------------------------------------------------------


def test_answers_are_judged_by_what_they_say() -> None:
    assert _last_number("So 3 apples. The answer is $1,234.") == 1234
    assert _last_number("first 3, then 4") == 4
    assert _last_number("none") is None
    assert _chooses("B", "The right option is B.") and not _chooses("B", "A or B")
    assert _says(["Au"], "Its symbol is Au.") and not _says(["Au"], "an auction")
    assert _says(["carbon dioxide"], "It is Carbon Dioxide")


ROW = {
    "prompt": "def double(x):\n    '''Twice x.'''\n",
    "test": "def check(f):\n    assert f(2) == 4\n",
    "entry_point": "double",
}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("```python\ndef double(x):\n    return 2 * x\n```", True),
        ("def double(x):\n    return x + x", True),
        ("```python\ndef double(x):\n    return x\n```", False),
        ("I cannot", False),
    ],
)
def test_written_functions_are_run(sandbox: None, answer: str, right: bool) -> None:
    assert _works(ROW, answer) == right
