"""Verdicts, exploration, drift, shadow runs, failures' chains, and layers with budgets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.escalation import DEFAULT_CHAINS, Step
from configs.profile import load_profile
from configs.routing import load_routing
from deployments.chunks import token_usage
from deployments.classifier.layers import REST_REQUESTS, Layers, language_of
from deployments.classifier.rules import Classification, classify
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.opinions import Feedback, shadow_row
from deployments.router.bandit import Bandit
from deployments.router.choice import Offer
from deployments.router.drift import drift
from deployments.router.failures import next_in_chain
from deployments.router.rules import Rules, Situation
from deployments.router.shadows import agreement, drawn

OFFERS = [Offer("small", 0.5, 0.1, 1.0), Offer("large", 0.6, 0.2, 2.0)]


# -- verdicts and exploration -----------------------------------------------------------------------------------


def test_verdicts_move_what_is_expected_of_that_variant_and_task() -> None:
    bandit = Bandit(0.0)
    for number in range(20):
        bandit.answered(f"r{number}", "k", "small", "chat")
        assert bandit.said(f"r{number}", "k", good=True)
    informed = bandit.informed(OFFERS, "chat")
    assert informed[0].correct == pytest.approx((10 + 20) / 40)
    assert informed[1] == OFFERS[1]
    assert bandit.informed(OFFERS, "code") == OFFERS


def test_a_verdict_counts_once_and_only_from_who_has_asked() -> None:
    bandit = Bandit(0.0)
    bandit.answered("r", "k", "small", "chat")
    assert not bandit.said("r", "another key", good=True)
    assert not bandit.said("unknown", "k", good=True)
    assert bandit.said("r", "k", good=False)
    assert not bandit.said("r", "k", good=False)


def test_exploration_spends_its_share_and_tries_what_may_be_good() -> None:
    bandit = Bandit(0.2, random.Random(1))
    assert sum(bandit.explores() for _ in range(5000)) == pytest.approx(1000, rel=0.1)
    tried = Counter(
        max(bandit.sampled(OFFERS, "chat"), key=lambda offer: offer.correct).variant for _ in range(2000)
    )
    assert 300 < tried["small"] < 1000, "less often than the better one, but often enough to learn"
    catalog = load_catalog()
    rules = Rules(
        load_profile("cpu", catalog), catalog, load_routing(), Situation(bandit=Bandit(1.0, random.Random(2)))
    )
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    learned = dict.fromkeys(rules.profile.variants, 0.5)
    found = replace(classify(request.messages, rules.routing), correct=learned, learned_from=1000)
    chosen = Counter(rules.decide(request, RequestContext("r"), found).variant for _ in range(60))
    assert len(chosen) > 1
    assert rules.decide(request, RequestContext("r"), found).reason.startswith("exploring")


# -- drift
# ----------------------------------------------------------------------------------------------------------


def answers(expected: float, truth: float, count: int, seed: int) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(expected, float(rng.random() < truth)) for _ in range(count)]


def test_drift_is_seen_and_false_alarms_are_rare() -> None:
    seen = drift(answers(0.9, 0.9, 100, 1) + answers(0.9, 0.5, 100, 2), 0.05)
    assert seen.since is not None
    assert 100 <= seen.since < 150
    alarms = sum(drift(answers(0.7, 0.7, 300, seed), 0.05).since is not None for seed in range(100))
    assert alarms <= 12
    assert drift([], 0.05).since is None


# -- shadow runs
# ----------------------------------------------------------------------------------------------------


async def embed(texts: list[str]) -> Sequence[Sequence[float]]:
    """Texts that share their first word point the same way."""
    same = len({text.split()[0].lower() for text in texts}) == 1
    return [[1.0, 0.0], [1.0, 0.0] if same else [0.0, 1.0]]


@pytest.mark.parametrize(
    ("small", "large", "agreed"),
    [
        ("Paris.", "paris", 1.0),
        ('{"a": 1}', '{ "a": 1.0 }', 1.0),
        ('{"a": 1}', '{"a": 2}', 0.0),
        ("So the answer is 1,200.", "It makes 1200", 0.0),
        ("The answer is 12", "The sum is 13", 0.0),
        ("Paris is the capital", "Paris of course", 1.0),
        ("Rome", "Berlin", 0.0),
    ],
)
async def test_agreement(small: str, large: str, agreed: float) -> None:
    # (With the same number at their ends, what is left decides: "So" and "It" differ by their first word.)
    assert await agreement(small, large, embed) == agreed


def test_shadows_are_drawn_by_the_requests_id() -> None:
    share = sum(drawn(f"r{number}", 0.3) for number in range(4000)) / 4000
    assert share == pytest.approx(0.3, abs=0.03)
    assert not drawn("r", 0.0)


def test_a_shadow_run_is_written_down_with_what_it_took() -> None:
    catalog = load_catalog()
    row = shadow_row("r", "qwen3-4b", "qwen3-8b", 0.51234, token_usage(100, 50), catalog)
    price = catalog.variants["qwen3-8b"].price
    assert (row["agreement"], row["prompt_tokens"], row["completion_tokens"]) == (0.5123, 100, 50)
    assert row["cost_usd"] == pytest.approx((100 * price.input + 50 * price.output) / 1e6)
    assert shadow_row("r", "qwen3-4b", "qwen3-8b", 0.5, None, catalog)["cost_usd"] == 0


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"rating": "up"}, "up"),
        ({"correction": "no, 4"}, "down"),
        ({"rating": "regenerate"}, "regenerate"),
        ({}, None),
    ],
)
def test_what_feedback_says(fields: dict[str, Any], verdict: str | None) -> None:
    feedback = Feedback(request_id="r", **fields)
    assert feedback.verdict == verdict
    assert feedback.as_row("k")["key_id"] == "k"


# -- chains of failures
# ---------------------------------------------------------------------------------------------

ABLE = {"a": 0.1, "b": 0.5, "c": 0.9}
CONTEXTS = {"a": 1000, "b": 8000, "c": 4000}


@pytest.mark.parametrize(
    ("chain", "after", "tried", "resting", "found"),
    [
        (("larger",), "a", {"a": 1}, (), "b"),
        (("larger",), "c", {"c": 1}, (), None),
        (("smaller", "larger"), "b", {"b": 1}, (), "a"),
        (("same", "larger"), "a", {"a": 1}, (), "a"),
        (("same", "larger"), "a", {"a": 2}, (), "b"),
        (("longer",), "a", {"a": 1}, (), "c"),
        (("longer",), "b", {"b": 1}, (), None),
        (("awake",), "a", {"a": 1}, (), "c"),
        (("larger",), "a", {"a": 1}, ("b",), "c"),
        (("larger",), "a", {"a": 1}, ("b", "c"), "b"),
        ((), "a", {"a": 1}, (), None),
    ],
)
def test_who_is_asked_next(
    chain: tuple[Step, ...], after: str, tried: dict[str, int], resting: tuple[str, ...], found: str | None
) -> None:
    assert next_in_chain(chain, after, ABLE, CONTEXTS, ["a", "c"], tried, resting.__contains__) == found


def test_every_cause_has_a_chain() -> None:
    assert all(load_routing().fallback.chain(cause) == chain for cause, chain in DEFAULT_CHAINS.items())


# -- layers
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France, and why?", "en"),
        ("Was ist die Hauptstadt von Frankreich?", "de"),
        ("¿Puedes explicarme por qué el cielo es azul durante el día?", "es"),
        ("hi", None),
        ("1 + 1 = 2; 2 + 2 = 4; 3 + 3", None),
    ],
)
def test_languages_are_known_where_they_are_plain(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_a_layer_that_keeps_missing_its_budget_rests() -> None:
    class Slow:
        name, budget_ms = "slow", 1.0

        def read(self, request: ChatRequest, found: Classification, embedding: object) -> Classification:
            now[0] += 0.05
            return replace(found, language="slow")

    now = [0.0]
    layers = Layers(load_routing(), None, lambda: now[0])
    layers.layers = [Slow()]
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    read = [layers.read(request) for _ in range(200)]
    slow = [found.language == "slow" for found in read]
    assert all(slow[:5])
    assert slow.count(False) >= REST_REQUESTS
    assert read[0].spent_ms == {"slow": 50.0}


def test_whether_to_think_follows_from_outcomes_or_from_the_task() -> None:
    layers = Layers(load_routing(), None)
    hard = "Prove step by step that the sum of 1 + 2 + 3 is 6. Why? Explain why, derive it, compare, evaluate." * 3
    request = ChatRequest(messages=[{"role": "user", "content": hard}])
    assert layers.read(request).think
    easy = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    assert not layers.read(easy).think
    thinking = layers.layers[-1]
    found = Classification(0.1, "trivial", "chat", correct={"v": 0.5, "v:thinking": 0.7})
    assert thinking.read(easy, found, None).think
    assert not thinking.read(easy, replace(found, correct={"v": 0.5, "v:thinking": 0.52}), None).think
