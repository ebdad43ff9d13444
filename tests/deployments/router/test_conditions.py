"""The owner's rules on cost: what a budget and a question's length change."""

from __future__ import annotations

import pytest

from configs.catalog import load_catalog
from configs.profile import load_profile
from configs.routing import load_routing
from deployments.classifier.rules import classify
from deployments.contract import ChatRequest, RequestContext
from deployments.router.decision import RouteDecision
from deployments.router.rules import Rules

CATALOG, ROUTING = load_catalog(), load_routing()
PROFILE = load_profile("cpu", CATALOG)
SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
CODE = "Write a python function that reverses a list."


def ruled(*rules: dict[str, object]) -> Rules:
    routing = type(ROUTING).model_validate({**ROUTING.model_dump(), "rules": rules})
    return Rules(PROFILE, CATALOG, routing)


def decide(rules: Rules, text: str, used: float | None, **fields: object) -> RouteDecision:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": text}], **fields})
    return rules.decide(request, RequestContext("r", budget_used=used), classify(request.messages, ROUTING))


THRIFT = ruled({"name": "thrift", "when": {"budget_used": 0.8}, "at_most_billions": 0.6})


@pytest.mark.parametrize(
    ("used", "variant"), [(None, LARGE), (0.5, LARGE), (0.79, LARGE), (0.8, SMALL), (1.2, SMALL)]
)
def test_a_budget_that_is_used_up_prefers_what_is_small(used: float | None, variant: str) -> None:
    decision = decide(THRIFT, CODE, used)
    assert decision.variant == variant
    if variant == SMALL:
        passed = {one.variant: one.passed_over for one in decision.candidates}
        assert passed[LARGE] == "rule: thrift"


def test_thrift_keeps_nobody_from_an_answer() -> None:
    long = "word " * 9_000
    assert decide(THRIFT, long, 0.9).variant == LARGE, "nobody smaller has such a context"
    assert decide(THRIFT, CODE, 0.9, model=LARGE).variant == LARGE, "who is named answers"
    found = classify(({"role": "user", "content": CODE},), ROUTING)
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": CODE}]})
    assert LARGE not in THRIFT.able(request, RequestContext("r", budget_used=0.9), found), "nor takes it over"
    assert LARGE in THRIFT.able(request, RequestContext("r"), found)


def test_a_short_question_goes_to_the_tier_that_a_rule_prefers() -> None:
    rules = ruled({"name": "short", "when": {"max_chars": 50}, "prefer_level": "trivial"})
    assert decide(rules, CODE, None).variant == SMALL
    assert decide(rules, CODE, None).reason == "rule: short"
    assert decide(rules, CODE + " " * 50, None).variant == LARGE


def test_a_rule_does_something() -> None:
    with pytest.raises(ValueError, match="bounds their parameters"):
        ruled({"name": "idle", "when": {}})
