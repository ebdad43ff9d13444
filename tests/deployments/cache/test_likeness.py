from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.cache.likeness import FEATURES, PRIOR, SHIPPED, Neighbour, features_of, fitted

ASKED = "How do I close an account?"


def feature(name: str, near: list[Neighbour]) -> float:
    return float(features_of(ASKED, near)[FEATURES.index(name)])


def test_features_are_of_the_nearest_and_its_neighbourhood() -> None:
    best = Neighbour(0.95, "How can I close an account?", "a", right=8, wrong=2)
    near = [best, Neighbour(0.90, "Closing an account", "a"), Neighbour(0.80, "How do I open one?", "b")]
    assert feature("similarity", near) == 0.95
    assert feature("gap", near) == pytest.approx(0.15), "to the nearest of another group"
    assert 0.5 < feature("agreement", near) < 1
    assert feature("agreement", [best, Neighbour(0.94, "x", "b")]) < feature("agreement", near)
    assert feature("crowd", near) == 0.80
    assert feature("record", near) == pytest.approx(np.log(2.5 / 15))
    assert feature("negation", [Neighbour(0.99, "How do I not close an account?", "a")]) == 1


def test_alone_it_is_of_one_mind() -> None:
    alone = [Neighbour(0.9, ASKED, "a")]
    assert feature("agreement", alone) == 1
    assert feature("words", alone) == 1


def test_a_guards_objection_all_but_forbids_until_labels_say_otherwise() -> None:
    plain = features_of(ASKED, [Neighbour(0.97, "How can I close an account?", "a")])
    negated = features_of(ASKED, [Neighbour(0.97, "How do I not close an account?", "a")])
    assert SHIPPED.probability(plain)[0] > 0.6
    assert SHIPPED.probability(negated)[0] < 0.1
    # Two hundred questions in which the same guard objected to what was right.
    taught = fitted(np.tile(negated, (200, 1)), np.ones(200, bool))
    assert taught.probability(negated)[0] > 0.9


def test_without_labels_it_is_what_was_shipped() -> None:
    assert np.allclose(fitted(np.zeros((0, len(FEATURES))), np.zeros(0, bool)).weights, PRIOR)


def test_it_learns_what_tells_them_apart() -> None:
    draw = np.random.default_rng(0)
    rows = np.tile(features_of(ASKED, [Neighbour(0.9, "x", "a")]), (2000, 1))
    rows[:, FEATURES.index("gap")] = draw.uniform(0, 0.3, 2000)
    same = draw.random(2000) < rows[:, FEATURES.index("gap")] / 0.3
    model = fitted(rows, same)
    for gap in (0.05, 0.15, 0.25):
        rows[0, FEATURES.index("gap")] = gap
        assert model.probability(rows[0])[0] == pytest.approx(gap / 0.3, abs=0.08)


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_a_fit_ends_in_finite_weights_whatever_the_labels_are(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.normal(0, 10, (count, len(FEATURES)))
    model = fitted(rows, draw.random(count) < draw.random())
    assert np.isfinite(model.weights).all()
    assert ((model.probability(rows) >= 0) & (model.probability(rows) <= 1)).all()
