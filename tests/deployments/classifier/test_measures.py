from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.classifier.measures import apgr, auroc, calibration_error

WEAK = np.array([1.0, 0, 0, 1, 0, 0, 1, 0])
STRONG = np.array([1.0, 1, 1, 1, 0, 1, 1, 1])


def test_chance_is_a_half_and_an_oracle_is_better_than_any_order() -> None:
    assert apgr(np.zeros(8), WEAK, STRONG) == pytest.approx(0.5)
    oracle = apgr(STRONG - WEAK, WEAK, STRONG)
    assert oracle > 0.7
    assert apgr(WEAK - STRONG, WEAK, STRONG) == pytest.approx(1 - oracle)


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8))
def test_an_order_and_its_reverse_add_up_to_one(scores: list[float]) -> None:
    score = np.array(scores)
    assert apgr(score, WEAK, STRONG) + apgr(-score, WEAK, STRONG) == pytest.approx(1)
    assert apgr(score, WEAK, STRONG) <= apgr(STRONG - WEAK, WEAK, STRONG) + 1e-9


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    with pytest.raises(ValueError, match="no better than the weak one"):
        apgr(np.zeros(8), STRONG, WEAK)


def test_what_is_promised_and_kept_is_calibrated() -> None:
    draw = np.random.default_rng(0)
    promised = draw.random(20_000)
    kept = (draw.random(20_000) < promised).astype(float)
    assert calibration_error(promised, kept) < 0.02
    assert calibration_error(np.ones(20_000), kept) == pytest.approx(0.5, abs=0.02)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    score = np.array([0.1, 0.4, 0.35, 0.8])
    ok = np.array([0.0, 0, 1, 1])
    assert auroc(score, ok) == pytest.approx(0.75)
    assert auroc(np.zeros(4), ok) == pytest.approx(0.5)
    assert auroc(score, np.ones(4)) == 0.5
