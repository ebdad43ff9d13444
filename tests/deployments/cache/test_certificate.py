from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from deployments.cache.certificate import FEWEST, Certificate, upper
from deployments.cache.likeness import CENTRE, FEATURES, Floats

GAP = FEATURES.index("gap")


def request(draw: np.random.Generator, wrong_at: float) -> tuple[Floats, bool]:
    """A request whose nearest entry is right the likelier, the larger the gap: for sure at the largest but for
    `wrong_at`."""
    features = CENTRE.copy()
    features[GAP] = draw.uniform(0, 0.3)
    right = min(1 - wrong_at, features[GAP] / 0.2)
    return features, bool(draw.random() < right)


def lived(budget: float, requests: int, seed: int, wrong_at: float = 0.0) -> tuple[Certificate, int, int]:
    """A certificate after so many requests; hits, and wrong ones among them."""
    draw = np.random.default_rng(seed)
    certificate, hits, wrong = Certificate(budget), 0, 0
    for _ in range(requests):
        features, right = request(draw, wrong_at)
        certificate.saw(features)
        serves, _ = certificate.serves(features)
        hits, wrong = hits + serves, wrong + (serves and not right)
        if not serves or draw.random() < 0.05:
            certificate.learned(features, right)
        if certificate.due:
            certificate.renew()
    return certificate, hits, wrong


def test_one_stratum_is_clopper_and_pearsons_bound() -> None:
    bound = upper(np.array([3]), np.array([200]), np.array([0.4]), 0.95)
    assert bound == pytest.approx(0.4 * beta.ppf(0.95, 4, 197), rel=1e-6)


def test_strata_count_by_their_share() -> None:
    wrong, labels = np.array([10, 0]), np.array([100, 300])
    mostly_good = upper(wrong, labels, np.array([0.05, 0.45]), 0.95)
    mostly_bad = upper(wrong, labels, np.array([0.45, 0.05]), 0.95)
    assert mostly_good < 0.02 < mostly_bad


def test_nothing_serves_before_enough_is_known() -> None:
    certificate, hits, _ = lived(0.01, FEWEST - 1, seed=1)
    assert hits == 0
    assert certificate.in_force.threshold is None


def test_it_serves_what_the_budget_allows_and_keeps_its_promise() -> None:
    for seed in range(5):
        certificate, hits, wrong = lived(0.02, 4000, seed)
        assert hits > 400, "it does serve"
        assert wrong / 4000 <= 0.02
        assert certificate.in_force.per_request <= 0.02
        assert certificate.in_force.per_hit * certificate.in_force.share == pytest.approx(
            certificate.in_force.per_request
        )


def test_a_larger_budget_serves_more() -> None:
    assert lived(0.005, 4000, seed=3)[1] < lived(0.03, 4000, seed=3)[1]


def test_where_everything_is_doubtful_nothing_is_served() -> None:
    certificate, hits, _ = lived(0.01, 3000, seed=2, wrong_at=0.3)
    assert hits < 60
    assert certificate.in_force.threshold is None or certificate.in_force.share < 0.05


def test_what_turns_bad_is_served_no_more_and_again_when_it_is_good() -> None:
    certificate, _, _ = lived(0.02, 3000, seed=4)
    good = CENTRE.copy()
    good[GAP] = 0.3
    assert certificate.serves(good)[0]
    for _ in range(600):
        certificate.saw(good)
        certificate.learned(good, False)
    certificate.renew()
    assert not certificate.serves(good)[0]
    for _ in range(20_000):
        certificate.saw(good)
        certificate.learned(good, True)
    certificate.renew()
    assert certificate.serves(good)[0], "the bad time has left the window"
