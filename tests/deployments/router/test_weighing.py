"""Decisions by what was learned, by preference, by the owner's rules, and within a conversation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.adapters import Promotion
from configs.catalog import load_catalog
from configs.profile import load_profile
from configs.routing import Exchange, Routing, Rule, load_routing
from deployments.classifier.rules import classify
from deployments.contract import ChatError, ChatRequest, RequestContext
from deployments.router.calibration import Calibrated, Calibration, Evidence, Head
from deployments.router.choice import Offer, blended, choose, frontier
from deployments.router.confidence import SIGNALS
from deployments.router.conversations import Conversations, Turn
from deployments.router.decision import Candidate, RouteDecision
from deployments.router.escalation import Judges
from deployments.router.pace import Pace
from deployments.router.rules import Rules, Situation
from tests.deployments.adapters.made import published
from tests.deployments.router.trusting import ROUTING

CATALOG = load_catalog()
PROFILE = load_profile("cpu", CATALOG)
SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
ALIKE = {SMALL: 0.9, MIDDLE: 0.9, LARGE: 0.9}
APART = {SMALL: 0.1, MIDDLE: 0.3, LARGE: 0.9}


def decide(
    content: str = "hi",
    *,
    correct: dict[str, float] | None = None,
    routing: Routing = ROUTING,
    situation: Situation | None = None,
    last: Turn | None = None,
    judges: Judges | None = None,
    device: str = "server",
    model: str | None = None,
    language: str | None = None,
    **context: Any,
) -> RouteDecision:
    request = ChatRequest(messages=[{"role": "user", "content": content}], model=model)
    found = replace(
        classify(request.messages, routing), correct=correct or {}, learned_from=10_000, language=language
    )
    rules = Rules(PROFILE, CATALOG, routing, situation, judges)
    return rules.decide(request, RequestContext("r", device=device, **context), found, last)  # type: ignore[arg-type]


def with_rules(*rules: dict[str, Any]) -> Routing:
    return Routing.model_validate({**ROUTING.model_dump(mode="json"), "rules": rules})


# -- by what was learned ------------------------------------------------------------------------------------


def test_the_cheapest_answers_what_all_get_right() -> None:
    decision = decide(correct=ALIKE)
    assert decision.variant == SMALL
    assert decision.reason.startswith("balanced: P(right) 0.9")
    assert decision.candidates[0].correct == pytest.approx(0.9, abs=0.01)


def test_and_the_large_one_what_only_it_gets_right() -> None:
    assert decide(correct=APART).variant == LARGE
    assert decide(correct=APART, preference="best").variant == LARGE


def test_preferences_pull_apart() -> None:
    near = {SMALL: 0.8, MIDDLE: 0.82, LARGE: 0.84}
    assert decide(correct=near, preference="economy").variant == SMALL
    assert decide(correct=near, preference="best").variant == LARGE


def test_time_counts_as_cost_does() -> None:
    pace = Pace()
    for name, seconds in ((SMALL, 1.0), (MIDDLE, 5.0), (LARGE, 300.0)):
        pace.note(name, 0.1, seconds, 150)
    apart = {SMALL: 0.3, MIDDLE: 0.6, LARGE: 0.9}
    assert decide(correct=apart, situation=Situation(pace=pace)).variant == MIDDLE
    assert decide(correct=apart, situation=Situation(pace=pace), preference="best").variant == LARGE
    asleep = Situation(loading={MIDDLE: 200.0, LARGE: 200.0})
    assert decide(correct={SMALL: 0.6, MIDDLE: 0.7, LARGE: 0.7}, situation=asleep).variant == SMALL


def test_a_phone_is_weighed_within_its_reach() -> None:
    assert decide(correct=APART, device="mobile").variant == MIDDLE


def test_little_that_was_learned_weighs_little() -> None:
    assert blended(0.9, 0.1, 0) == pytest.approx(0.1)
    assert blended(0.9, 0.1, 50) == pytest.approx(0.5)
    assert blended(None, 0.3, 1000) == 0.3


offers = st.lists(
    st.builds(Offer, st.text("abc", min_size=1), st.floats(0, 1), st.floats(0, 10), st.floats(0, 60)),
    min_size=1,
    max_size=8,
)


@given(offers, st.floats(0, 2), st.floats(0, 1))
@settings(max_examples=100)
def test_the_choice_is_on_the_frontier_and_worth_most(
    found: list[Offer], per_cost: float, per_second: float
) -> None:
    exchange = Exchange(per_cost=per_cost, per_second=per_second)
    best, _ = choose(found, exchange)
    assert best in frontier(found)
    assert best.worth(exchange) == pytest.approx(max(offer.worth(exchange) for offer in found))
    assert not any(other.dominates(best) for other in found)


# -- without it ------------------------------------------------------------------------------------------------


def test_until_outcomes_are_learned_preferences_move_the_level() -> None:
    assert decide("hi").variant == SMALL
    assert decide("hi", preference="best").variant == LARGE
    hard = (
        "Analyze the trade-offs and prove the bounds step by step:\n1. first\n2. then\n3. next\n" + "word " * 200
    )
    assert decide(hard).variant == LARGE
    economy = decide(hard, preference="economy")
    assert (economy.variant, economy.reason) == (MIDDLE, "moderate query, economy")


# -- the owner's rules ------------------------------------------------------------------------------------------


def test_the_first_rule_that_holds_counts() -> None:
    rules = with_rules(
        {"name": "dear", "when": {"matches": "^Dear "}, "force": MIDDLE},
        {"name": "all", "when": {}, "prefer": LARGE},
    )
    assert (decide("Dear aunt", routing=rules).variant, decide("hi", routing=rules).variant) == (MIDDLE, LARGE)
    assert decide("Dear aunt", routing=rules).reason == "rule: dear"
    assert decide("Dear aunt", routing=rules, model=SMALL).variant == SMALL, "who names a variant means it"
    elsewhere = with_rules({"name": "there", "when": {}, "force": "qwen3-8b"})
    assert decide("hi", routing=elsewhere).variant == SMALL, "a rule for a variant of another profile is none"


def test_what_is_forbidden_is_passed_over_and_what_is_forced_is_all_there_is() -> None:
    rules = with_rules({"name": "no small talk", "when": {"task": ["chat"]}, "forbid": [SMALL]})
    decision = decide("hi", routing=rules)
    assert decision.variant == MIDDLE
    assert decision.candidates[0].passed_over == "rule: no small talk"
    force = with_rules({"name": "only", "when": {"min_tokens": 1}, "force": SMALL})
    with pytest.raises(ChatError, match="too short"):
        decide("abcd" * 6000, routing=force)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({"task": ["code"]}, False),
        ({"level": ["trivial"]}, True),
        ({"device": ["mobile"]}, False),
        ({"language": ["de"]}, True),
        ({"tools": True}, False),
        ({"max_tokens": 0}, True),
        ({"key": ["key_other"]}, False),
        ({"matches": "(?i)HI"}, True),
    ],
)
def test_conditions(when: dict[str, Any], holds: bool) -> None:
    rules = with_rules({"name": "it", "when": when, "prefer": LARGE})
    assert (decide("hi", routing=rules, language="de").variant == LARGE) == holds


def test_who_speaks_english_only_is_not_asked_in_german() -> None:
    decision = decide("Was ist die Hauptstadt von Frankreich?", language="de")
    assert decision.variant == MIDDLE
    assert "English only" in (decision.candidates[0].passed_over or "")


def test_a_budget_is_kept_or_the_request_refused() -> None:
    assert decide("hi", preference="best", max_cost_usd=1.0).variant == LARGE
    assert decide("hi", preference="best", max_cost_usd=0.000002).variant != LARGE
    with pytest.raises(ChatError, match="would cost about"):
        decide("hi", max_cost_usd=1e-12)


# -- a conversation
# ------------------------------------------------------------------------------------------------


def test_a_conversation_stays_where_it_is_unless_the_need_changes() -> None:
    assert decide("And now?", last=Turn(LARGE, "chat")).variant == LARGE
    assert decide("And now?", last=Turn(SMALL, "chat")).variant == SMALL
    assert decide("hi", last=Turn(LARGE, "code")).variant == SMALL, "the task is another"
    assert decide("hi", correct=APART, last=Turn(SMALL, "chat")).variant == LARGE, "another is better by far"
    near = {SMALL: 0.80, MIDDLE: 0.81, LARGE: 0.80}
    assert decide("hi", correct=near, last=Turn(LARGE, "chat")).variant == LARGE


def conversation(*contents: str, **fields: Any) -> ChatRequest:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    return ChatRequest(messages=messages, **fields)


def test_conversations_are_known_by_how_they_begin_or_by_their_session() -> None:
    known = Conversations()
    mine, theirs = RequestContext("1", key_id="a"), RequestContext("2", key_id="b")
    known.answered(conversation("q"), mine, Turn(LARGE, "chat"))
    assert known.last(conversation("q", "a", "more"), mine) == Turn(LARGE, "chat")
    assert known.last(conversation("q"), mine) is None, "that is the beginning of another one"
    assert known.last(conversation("other", "a", "more"), mine) is None
    assert known.last(conversation("q", "a", "more"), theirs) is None, "another key"
    session = RequestContext("3", key_id="a", session="s")
    known.answered(conversation("x"), session, Turn(SMALL, None))
    assert known.last(conversation("y", "a", "z"), session) == Turn(SMALL, None)


# -- doubts ----------------------------------------------------------------------------------------------------


def judges(scores: float, ok: tuple[float, float] = (1.0, 0.0)) -> Judges:
    """Of a small variant whose 200 labelled answers all had this score, every other of which was wrong."""
    head = Head(None, 0.0, (0.0,) * (len(SIGNALS) + 1), ((0.0,), (0.5,)))
    evidence = Evidence(np.full((1, 200), scores), np.array(ok * 100), np.ones(200))
    return Judges(Calibration({SMALL: Calibrated((), (head,), evidence)}), ROUTING.escalation)


def test_who_could_not_keep_the_target_is_not_asked_first() -> None:
    doubted = judges(0.5)
    assert doubted.accepts_nothing(SMALL)
    assert "200 labelled answers" in doubted.warnings[0]
    decision = decide("hi", judges=doubted)
    assert decision.variant == MIDDLE
    assert decision.candidates[0].passed_over == "none of its answers would keep the target"
    assert decide("hi", judges=doubted, model=SMALL).variant == SMALL


def test_who_is_often_wrong_is_not_asked_while_nothing_tells_when() -> None:
    shipped = load_routing()
    fresh = decide("What is the capital of France?", routing=shipped)
    assert (fresh.variant, fresh.reason) == (MIDDLE, f"trivial query; {SMALL} is passed over")
    assert fresh.candidates[0] == Candidate(SMALL, "often wrong, and nobody can tell when yet")
    assert decide("hi", routing=shipped, last=Turn(SMALL, "chat")).variant == MIDDLE


def test_who_is_often_wrong_is_asked_where_it_is_wanted_or_something_tells_when(tmp_path: Path) -> None:
    shipped = load_routing()
    assert decide("hi", routing=shipped, model=SMALL).variant == SMALL
    assert decide("hi", routing=shipped, model="trivial").variant == SMALL
    assert decide("hi", routing=shipped, correct={SMALL: 0.9, MIDDLE: 0.9, LARGE: 0.9}).variant == SMALL
    assert decide("hi", routing=shipped, judges=judges(0.5, ok=(1.0, 1.0))).variant == SMALL
    assert decide("hi", routing=shipped, situation=Situation(rests={MIDDLE, LARGE})).variant == SMALL
    adapter = published(tmp_path, "a", SMALL, {}, promotion=Promotion(share=0.1))
    trained = Situation(adapters={adapter.model: adapter})
    assert decide("hi", routing=shipped, situation=trained).variant == SMALL, "its owner has taught it something"
    for rule in ({"prefer": SMALL}, {"prefer_level": "trivial"}, {"at_most_billions": 0.2}):
        ruled = shipped.model_copy(update={"rules": (Rule.model_validate({"name": "r", "when": {}, **rule}),)})
        assert decide("hi", routing=ruled).variant == SMALL, rule


def test_who_has_just_failed_rests_while_another_can_answer() -> None:
    assert decide("hi", situation=Situation(rests={SMALL})).variant == MIDDLE
    assert decide("hi", situation=Situation(rests=set(PROFILE.variants))).variant == SMALL


def test_pace_learns_and_knows_how_busy_a_variant_is() -> None:
    pace = Pace()
    assert pace.seconds(SMALL) == 0
    pace.note(SMALL, 0.5, 2.5, 101)
    idle = pace.seconds(SMALL, 100)
    assert idle == pytest.approx(2.5)
    with pace.asked(SMALL), pace.asked(SMALL):
        assert pace.seconds(SMALL, 100) == pytest.approx(2 * idle)
    assert pace.seconds(SMALL, 100) == pytest.approx(idle)
