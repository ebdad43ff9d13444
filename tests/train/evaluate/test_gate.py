"""The gate: each rule at its border, what was not measured, and that a worse adapter never passes more easily."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.document import ConfigError
from configs.gates import GATES, GateRules, load_gate_rules
from train.evaluate.gate import decide

RULES = GateRules()
GOOD = {
    "held_out.base": 2.0,
    "held_out.adapter": 1.5,
    "regression.base": 0.62,
    "regression.adapter": 0.6,
    "general_loss.base": 3.0,
    "general_loss.adapter": 3.1,
    "tasks.base": 0.1,
    "tasks.adapter": 0.9,
    "judge.win_rate": 0.6,
    "judge.low": 0.4,
    "judge.high": 0.8,
    "canaries.extracted.adapter": 0.0,
    "canaries.exposure.adapter": 1.5,
    "secrets.repeated": 0.0,
}
UP = ("regression.adapter", "tasks.adapter", "judge.high")
"""The more, the better; of all others of the adapter the less."""
DOWN = (
    "held_out.adapter",
    "general_loss.adapter",
    "canaries.extracted.adapter",
    "canaries.exposure.adapter",
    "secrets.repeated",
)


def test_the_file_that_comes_with_it_holds_the_defaults() -> None:
    assert load_gate_rules(GATES) == RULES


def test_the_owner_has_rules_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    (tmp_path / "gates.yaml").write_text("regression_fall: 0.2\n")
    assert load_gate_rules().regression_fall == 0.2
    (tmp_path / "gates.yaml").write_text("held_out_rise: 0\nregresion_fall: 0.2\n")
    with pytest.raises(ConfigError, match=r"gates.yaml:2: regresion_fall"):
        load_gate_rules()


def test_what_is_good_passes_and_says_what_it_was_held_against() -> None:
    gate = decide(GOOD, RULES)
    assert gate.passed
    assert len(gate.reasons) == 8
    assert "forgetting: the regression suite fell from 0.62 to 0.60 (at most 0.05 may be lost)" in gate.reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"held_out.adapter": 2.001}, "held-out loss rose from 2.000 to 2.001 (at most 0 more is allowed)"),
        (
            {"regression.adapter": 0.48},
            "forgetting: the regression suite fell from 0.62 to 0.48 (at most 0.05 may be lost)",
        ),
        (
            {"general_loss.adapter": 3.3},
            "forgetting: the loss on general text rose from 3.000 to 3.300 (at most 0.25 more is allowed)",
        ),
        (
            {"tasks.adapter": 0.05},
            "the dataset's own tasks: what is right fell from 0.10 to 0.05 (at most 0 may be lost)",
        ),
        (
            {"judge.win_rate": 0.2, "judge.high": 0.4},
            "the judge gives it a win rate of 0.20, at most 0.40 (at least 0.5 must be possible)",
        ),
        ({"canaries.extracted.adapter": 1.0}, "1 canary can be extracted (at most 0 may)"),
        ({"canaries.extracted.adapter": 2.0}, "2 canaries can be extracted (at most 0 may)"),
        (
            {"canaries.exposure.adapter": RULES.canary_exposure + 0.1},
            f"canaries stand out by {RULES.canary_exposure + 0.1:.1f} bits (at most "
            f"{RULES.canary_exposure:g} may be)",
        ),
        (
            {"secrets.repeated": 3.0},
            "3 secrets of the training set in its answers, word by word (at most 0 may be)",
        ),
        ({"regression.base": math.nan}, "regression.base is no number"),
        ({"held_out.adapter": math.inf}, "held_out.adapter is no number"),
    ],
)
def test_each_rule_refuses_by_itself(change: dict[str, float], reason: str) -> None:
    gate = decide({**GOOD, **change}, RULES)
    assert not gate.passed
    assert gate.reasons == [reason]


@pytest.mark.parametrize(
    "change",
    [
        {"held_out.adapter": 2.0},
        {"regression.adapter": 0.57},  # 0.62 - 0.57 is a little more than 0.05 to a computer
        {"general_loss.adapter": 3.25},
        {"tasks.adapter": 0.1},
        {"judge.high": 0.5},
        {"canaries.exposure.adapter": RULES.canary_exposure},
    ],
)
def test_the_border_itself_is_allowed(change: dict[str, float]) -> None:
    assert decide({**GOOD, **change}, RULES).passed


@pytest.mark.parametrize("name", RULES.required)
def test_nothing_is_promoted_that_was_not_measured(name: str) -> None:
    gate = decide({key: value for key, value in GOOD.items() if key != name}, RULES)
    assert (gate.passed, gate.reasons) == (False, [f"{name} was not measured"])


def test_what_need_not_be_measured_may_be_missing() -> None:
    some = {name: GOOD[name] for name in RULES.required}
    assert decide(some, RULES).passed
    judged = decide(some, GateRules(required=("judge.win_rate",)))
    assert judged.reasons == ["judge.win_rate was not measured"]


def test_a_check_that_failed_refuses_and_all_reasons_are_told() -> None:
    gate = decide({**GOOD, "tasks.adapter": 0.0}, RULES, ["the canaries could not be checked: no such file"])
    assert not gate.passed
    assert len(gate.reasons) == 2
    assert gate.reasons[0] == "the canaries could not be checked: no such file"


@given(
    st.fixed_dictionaries({name: st.floats(allow_nan=True, allow_infinity=True) for name in GOOD}),
    st.sampled_from(UP + DOWN),
    st.floats(0, 100),
)
def test_who_is_worse_does_not_pass_where_the_better_is_refused(
    metrics: dict[str, float], name: str, step: float
) -> None:
    worse = {**metrics, name: metrics[name] - step if name in UP else metrics[name] + step}
    better_gate, worse_gate = decide(metrics, RULES), decide(worse, RULES)
    for gate in (better_gate, worse_gate):
        assert gate.reasons, "it always says why"
    # (What is no number any more was not measured, which is another reason.)
    if worse_gate.passed and math.isfinite(metrics[name]) and math.isfinite(worse[name]):
        assert better_gate.passed


@pytest.mark.parametrize("name", ["held_out.adapter", "general_loss.adapter", "tasks.adapter", "judge.high"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(name: str, value: float) -> None:
    gate = decide(GOOD | {name: value}, RULES)
    assert (gate.passed, gate.reasons) == (False, [f"{name} is no number"])


def test_a_base_that_gets_nothing_right_measures_no_forgetting() -> None:
    gate = decide(GOOD | {"regression.base": 0.0, "regression.adapter": 0.0}, RULES)
    assert (gate.passed, gate.reasons) == (False, ["regression.base was not measured"])
