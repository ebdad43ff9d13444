from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.catalog import load_catalog
from configs.profile import load_profile
from configs.routing import LEVELS
from deployments.classifier.rules import classify
from deployments.contract import ChatError, ChatRequest, RequestContext
from deployments.router.decision import RouteDecision
from deployments.router.rules import Rules, Situation
from deployments.router.wishes import resolve_model
from tests.deployments.router.trusting import ROUTING

CATALOG = load_catalog()
PROFILE = load_profile("cpu", CATALOG)
RULES = Rules(PROFILE, CATALOG, ROUTING)
SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
HARD = (
    "Analyze the trade-offs and prove the bounds step by step:\n1. first derive\n2. then compare\n"
    "3. then evaluate\n4. finally explain why\n" + "in a setting with many things to weigh " * 220
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


def decide(content: Any = "hi", *, device: str = "server", **fields: Any) -> RouteDecision:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": content}], **fields})
    context = RequestContext("r", device=device)  # type: ignore[arg-type]
    return RULES.decide(request, context, classify(request.messages, ROUTING))


@pytest.mark.parametrize("name", list(PROFILE.variants))
@pytest.mark.parametrize("prefix", ["", "groupqwen/", "openai/", " "])
def test_a_named_variant_answers_whatever_was_asked(name: str, prefix: str) -> None:
    assert decide(HARD, model=prefix + name).variant == name


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        (None, "auto", "auto"),
        ("", "auto", "auto"),
        ("auto", "auto", "auto"),
        ("groupqwen", "auto", "auto"),
        ("gpt-4o", "auto", "auto"),
        ("qwen-max", "level", "complex"),
        ("simple", "level", "simple"),
        ("groupqwen/moderate", "level", "moderate"),
        ("openai/gpt-4o", "auto", "auto"),
        ("groupqwen/qwen-max", "level", "complex"),
    ],
)
def test_what_a_model_name_asks_for(model: str | None, kind: str, name: str) -> None:
    wish = resolve_model(model, PROFILE, ROUTING)
    assert (wish.kind, wish.name) == (kind, name)


@pytest.mark.parametrize("model", ["gpt-17", "qwen3-8b", "smollm2-135m:latest", "é\n"])
def test_a_model_that_is_not_here_is_a_404_that_names_those_that_are(model: str) -> None:
    with pytest.raises(ChatError) as raised:
        decide(model=model)
    assert (raised.value.status, raised.value.code, raised.value.param) == (404, "model_not_found", "model")
    assert all(name in raised.value.message for name in PROFILE.variants)


def test_each_level_goes_to_its_variant() -> None:
    assert decide("hi").variant == SMALL
    assert decide(HARD).variant == LARGE
    for level in LEVELS:
        assert decide("hi", model=level).variant == PROFILE.levels[level]


def test_code_and_translation_go_to_their_specialists() -> None:
    assert decide("Write a Python function that sorts").variant == LARGE
    assert "coder" in decide("Write a Python function that sorts").reason
    assert decide("Translate 'tree' to German").variant == LARGE


def test_a_phone_is_capped_unless_it_names_a_variant() -> None:
    capped = decide(HARD, device="mobile")
    assert capped.variant == PROFILE.levels["simple"] == MIDDLE
    assert "capped at simple for mobile" in capped.reason
    assert capped.level == "complex", "the query is no simpler for it"
    assert decide(HARD, device="mobile", model=LARGE).variant == LARGE
    assert decide("hi", device="mobile").variant == SMALL


@pytest.mark.parametrize("model", [None, SMALL, "simple"])
def test_an_image_is_refused_where_nothing_reads_it(model: str | None) -> None:
    with pytest.raises(ChatError) as raised:
        decide(IMAGE, model=model)
    assert (raised.value.status, raised.value.code) == (400, "unsupported_modality")
    assert "'cpu'" in raised.value.message


def test_tools_skip_a_variant_that_calls_none() -> None:
    with_tools = decide("hi", tools=TOOLS)
    assert with_tools.variant == MIDDLE
    assert {c.variant: c.passed_over for c in with_tools.candidates}[SMALL] == "calls no tools"
    assert decide("hi", tools=TOOLS, tool_choice="none").variant == SMALL


def test_a_conversation_beyond_a_variants_context_goes_to_one_that_holds_it() -> None:
    long = "abcd" * 6000  # 6000 tokens: beyond 4096, within 8192
    assert decide(long, model="trivial").variant == MIDDLE
    with pytest.raises(ChatError) as raised:
        decide("abcd" * 20_000)
    assert (raised.value.status, raised.value.code) == (400, "context_length_exceeded")
    assert "16384" in raised.value.message


@settings(max_examples=150)
@given(
    st.text(max_size=60) | st.sampled_from([HARD, "def f(): return 1", "translate to french: é"]),
    st.sampled_from(["server", "macbook", "mobile"]),
    st.sampled_from([None, "auto", *LEVELS, *PROFILE.variants, "gpt-4o"]),
    st.booleans(),
)
def test_every_decision_accounts_for_every_variant_and_fits_a_header(
    content: str, device: str, model: str | None, tools: bool
) -> None:
    decision = decide(content, device=device, model=model, tools=TOOLS if tools else None)
    assert decision.variant in PROFILE.variants
    named = [candidate.variant for candidate in decision.candidates]
    assert sorted(named) == sorted(PROFILE.variants), "each once"
    if model not in PROFILE.variants:
        assert [c.variant for c in decision.candidates if c.passed_over is None] == [decision.variant]
    assert decision.parameters == CATALOG.variants[decision.variant].sampling.model_dump()
    assert decision.header().isascii()
    assert decision.header().isprintable()
    assert 0 <= decision.decided_ms < 1000


# -- variants on other machines ------------------------------------------------------------------------------

MIXED = load_profile(str(Path(__file__).parents[2] / "profiles" / "mixed.yaml"), CATALOG)
THERE = "macbook-coder"


def decide_with_nodes(away: set[str], device: str, **fields: Any) -> RouteDecision:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})
    rules = Rules(MIXED, MIXED.serving(CATALOG), ROUTING, Situation(away))
    return rules.decide(request, RequestContext("r", device=device), classify(request.messages, ROUTING))  # type: ignore[arg-type]


def test_what_comes_from_a_node_is_answered_there_while_it_is_there() -> None:
    away: set[str] = set()
    decision = decide_with_nodes(away, "macbook")
    assert (decision.variant, decision.reason) == (THERE, "trivial query, from the macbook")
    assert decide_with_nodes(away, "server").variant == SMALL
    away.add(THERE)
    decision = decide_with_nodes(away, "macbook")
    assert decision.variant == SMALL
    assert decision.candidates[0].passed_over == "its node, the macbook, is away"


def test_a_variant_that_is_asked_for_by_name_is_said_to_be_away() -> None:
    assert decide_with_nodes(set(), "server", model=THERE).variant == THERE
    with pytest.raises(ChatError) as raised:
        decide_with_nodes({THERE}, "server", model=THERE)
    assert (raised.value.status, raised.value.code) == (503, "node_away")
    assert raised.value.retry_after


def test_who_takes_over_is_not_on_a_node_that_is_away() -> None:
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    found = classify(request.messages, ROUTING)
    rules = Rules(MIXED, MIXED.serving(CATALOG), ROUTING, Situation({THERE}))
    assert set(rules.able(request, RequestContext("r"), found)) == set(MIXED.variants) - {THERE}
