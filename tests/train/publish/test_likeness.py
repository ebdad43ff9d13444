"""What a form changes, held against what the adapter changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from train.publish.likeness import LEAST_NOISE, liken

LOGITS = arrays(np.float32, (4, 16), elements=st.floats(-20, 20, width=32))


@given(base=LOGITS, change=LOGITS, lost=LOGITS, constant=st.floats(-5, 5))
def test_what_quantizing_the_base_has_lost_does_not_count(
    base: np.ndarray, change: np.ndarray, lost: np.ndarray, constant: float
) -> None:
    likeness = liken(base + change, base, base + lost + change + np.float32(constant), base + lost)
    assert likeness.error < 1e-3
    assert likeness.is_exact
    if likeness.change > 0.1:
        assert likeness.share == pytest.approx(1, abs=0.01)


@given(base=LOGITS, change=LOGITS)
def test_nothing_and_the_contrary_are_no_likeness(base: np.ndarray, change: np.ndarray) -> None:
    nothing = liken(base + change, base, base, base)
    contrary = liken(base + change, base, base - change, base)
    assert nothing.share == pytest.approx(0, abs=1e-3)
    assert nothing.error == pytest.approx(nothing.change, abs=1e-3)
    if nothing.change > 2 * LEAST_NOISE:
        assert not nothing.is_near
        assert not nothing.is_exact
        assert contrary.share == pytest.approx(-1, abs=0.01)
        assert not contrary.is_near


@given(base=LOGITS, change=LOGITS, kept=st.floats(0.6, 1.0))
def test_a_part_of_it_is_near(base: np.ndarray, change: np.ndarray, kept: float) -> None:
    likeness = liken(base + change, base, base + np.float32(kept) * change)
    assert likeness.is_near
    assert likeness.noise == 0


def test_vocabularies_may_end_in_unused_tokens() -> None:
    tuned, base = np.ones((2, 8)), np.zeros((2, 8))
    tuned[:, 3] = 5
    padded = np.concatenate([tuned, np.full((2, 3), -1e9)], axis=1)
    padded_base = np.concatenate([base, np.full((2, 3), -1e9)], axis=1)
    likeness = liken(tuned, base, padded, padded_base)
    assert likeness.error == 0
    assert likeness.agreement == 1
    assert "100% of that is there" in str(likeness)


def test_an_untrained_adapter_changes_nothing() -> None:
    base = np.random.default_rng(0).normal(size=(3, 10))
    likeness = liken(base, base, base, base)
    assert likeness.change == likeness.share == likeness.error == 0
