"""Bounds that must hold: checked on answers whose truth is known, many times over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from deployments.router.bounds import accepted_wrong, mean_is_below, quality, upper_share

ROUNDS, CONFIDENCE = 120, 0.9
ALLOWED = int(binom.ppf(0.999, ROUNDS, 1 - CONFIDENCE))
"""More broken promises than this would happen once in a thousand runs of the test."""


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = rng.beta(2, 1.5, count)
    return p, (rng.random(count) < p).astype(float), (rng.random(count) < np.clip(p + 0.2, 0, 1)).astype(float)


@pytest.mark.parametrize("labels", [100, 400])
def test_accepted_and_wrong_keeps_its_bound_as_often_as_it_says(labels: int) -> None:
    rng, broken, accepted = np.random.default_rng(1), 0, []
    truth = rng.beta(2, 1.5, 20_000)
    for _ in range(ROUNDS):
        scores, ok, _ = drawn(rng, labels)
        found = accepted_wrong(scores, ok, 0.05, CONFIDENCE)
        accepted.append(found.accepted)
        broken += float(np.where(truth >= found.value, 1 - truth, 0).mean()) > 0.05
    assert broken <= ALLOWED
    assert np.mean(accepted) > 0.05, "a bound that accepts nothing is of no use"


def test_quality_keeps_its_bound_as_often_as_it_says() -> None:
    rng, broken, accepted = np.random.default_rng(2), 0, []
    truth = rng.beta(2, 1.5, 20_000)
    strong = np.clip(truth + 0.2, 0, 1)
    for _ in range(ROUNDS):
        scores, weak_ok, strong_ok = drawn(rng, 400)
        found = quality(scores, weak_ok, strong_ok, 0.95, CONFIDENCE)
        accepted.append(found.accepted)
        broken += float(np.where(truth >= found.value, truth, strong).mean()) < 0.95 * float(strong.mean())
    assert broken <= ALLOWED
    assert np.mean(accepted) > 0.1


def test_with_too_few_labels_nothing_is_accepted() -> None:
    found = accepted_wrong(np.linspace(0, 1, 20), np.ones(20), 0.05, 0.9)
    assert found.never
    assert found.accepted == 0
    assert found.bound == pytest.approx(upper_share(0, 20, 0.9))
    assert accepted_wrong(np.array([]), np.array([]), 0.05, 0.9).never


def test_a_perfect_score_accepts_all_that_is_right() -> None:
    ok = np.array([1.0] * 300 + [0.0] * 100)
    found = accepted_wrong(ok, ok, 0.05, 0.9)
    assert found.value == 1.0
    assert found.accepted == 0.75
    assert quality(ok, ok, np.ones(400), 0.7, 0.9).accepted == 1.0


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.5, 0.99))
@settings(max_examples=50)
def test_the_upper_bound_is_one_and_grows(events: int, more: int, confidence: float) -> None:
    count = events + more
    bound = upper_share(events, count, confidence)
    assert events / count <= bound <= 1
    assert upper_share(min(count, events + 1), count, confidence) >= bound
    if events < count:
        assert binom.cdf(events, count, bound) == pytest.approx(1 - confidence, abs=1e-6)


def test_a_mean_is_below_what_it_is_clearly_below() -> None:
    rng = np.random.default_rng(3)
    assert mean_is_below(rng.random(500) * 0.5, 0.4, 0.95)
    assert not mean_is_below(rng.random(500), 0.5, 0.95)
    assert not mean_is_below(np.array([]), 0.5, 0.95)
