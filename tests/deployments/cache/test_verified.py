from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from configs.routing import CacheRules
from deployments.cache.answer import Near
from deployments.cache.certificate import FEWEST
from deployments.cache.experience import Experience, check, saw
from deployments.cache.likeness import FEATURES, Floats
from deployments.cache.verified import CONFIDENCE, Verified

ASKED, KEPT = "How do I close an account?", "How can I close an account?"
NEAR, VECTOR = Near("e1", KEPT, 0.06, "g1"), np.array([1.0, 0.0], np.float32)
EASY, HARD = np.full(len(FEATURES), 1.0), np.full(len(FEATURES), 0.0)


def everything(features: Floats) -> Floats:
    return np.ones(len(features))


def only_hard(features: Floats) -> Floats:
    return features[:, 0] < 0.5


def test_its_bound_is_clopper_and_pearsons_by_the_share_of_its_yeses() -> None:
    known = Verified()
    assert known.per_request(everything) == 1.0
    for number in range(400):
        known.saw(number % 4 == 0)
    for number in range(100):
        known.learned(HARD, number >= 3)
    assert known.per_request(everything) == pytest.approx(beta.ppf(CONFIDENCE, 4, 97) * 0.25)
    assert known.counted(everything) == (100, 3)


def test_it_serves_once_it_is_known_to_be_right_often_enough() -> None:
    known = Verified()
    for _ in range(FEWEST - 1):
        known.saw(True)
        known.learned(HARD, True)
    assert not known.serves(0.5, everything), "too little is known"
    known.learned(HARD, True)
    assert known.serves(0.05, everything)
    assert not known.serves(0.01, everything)
    for _ in range(20):
        known.learned(HARD, False)
    assert not known.serves(0.05, everything)


def test_what_the_certificate_serves_by_itself_says_nothing_of_what_is_left() -> None:
    known = Verified()
    for number in range(1000):
        known.saw(number % 10 == 0)
    for _ in range(900):
        known.learned(EASY, True)
    for number in range(100):
        known.learned(HARD, number >= 20)
    assert known.serves(0.01, everything)
    assert known.counted(only_hard) == (100, 20)
    assert not known.serves(0.01, only_hard)


def experience(mode: str, **fields: object) -> Experience:
    rules = {"mode": mode, "wrong_per_request": 0.05, "likely": 0.99, "verifier": "large", **fields}
    return Experience(CacheRules.model_validate(rules))


def test_a_doubtful_question_is_one_that_nothing_serves_and_that_is_not_hopeless() -> None:
    assert experience("certified").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    assert experience("calibrated").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    far = Near("e2", "What is the tallest mountain?", 0.6, "g2")
    assert not experience("certified").decide(ASKED, [far], VECTOR, "p").doubtful
    assert not experience("fixed").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    assert not experience("certified").decide(ASKED, [NEAR], VECTOR, "p:chat:turn").doubtful


def taught(known: Experience, partition: str = "p", yeses: int = 500, wrong: int = 0) -> Experience:
    """Every second request was doubtful, and got a yes."""
    by = known.verifier_in_force
    features = known.decide(ASKED, [NEAR], VECTOR, partition).features
    assert features is not None
    for number in range(yeses):
        known.apply(saw(partition, features, by, True))
        known.apply(saw(partition, None, by))
        known.apply(check(partition, features, "g1", number >= wrong, by))
    return known


def test_certified_a_yes_is_only_written_down_until_it_has_proved_itself() -> None:
    assert experience("calibrated").serves_verified("p")
    assert not experience("certified").serves_verified("p")
    known = taught(experience("certified"))
    assert known.serves_verified("p")
    assert known.verifier("p")["p"]["labels"] == 500
    assert not taught(known, wrong=100).serves_verified("p"), "and back"


def test_what_was_learned_is_of_one_verifier_in_one_partition() -> None:
    known = taught(experience("certified"))
    assert known.serves_verified("p")
    assert not known.serves_verified("q"), "in another its yeses may be wrong"
    for other in ({"verifier": "tiny"}, {"verified": 0.1}, {"doubtful": 0.0}):
        rules = {"mode": "certified", "wrong_per_request": 0.05, "verifier": "large", **other}
        known.take(CacheRules.model_validate(rules))
        assert not known.serves_verified("p"), other


def test_requests_of_before_there_was_a_verifier_do_not_dilute_its_share() -> None:
    known = experience("certified")
    for _ in range(10_000):
        known.apply(saw("p", None))
    assert not taught(known, yeses=125, wrong=20).serves_verified("p")


def test_what_the_certificate_has_used_of_the_budget_is_not_there_for_the_verifier() -> None:
    known = taught(experience("certified"))
    before = known.certificate("p").in_force.per_request
    for certificate in known.due:
        certificate.renew()
    used = known.certificate("p").in_force.per_request
    assert used > before == 0
    known.take(CacheRules(mode="certified", wrong_per_request=used, verifier="large"))
    assert not known.serves_verified("p")
