from __future__ import annotations

import numpy as np
from scipy.stats import beta

from configs.routing import CacheRules
from deployments.cache.answer import Near
from deployments.cache.certificate import FEWEST
from deployments.cache.experience import Experience, check, saw
from deployments.cache.verified import Verified

ASKED, KEPT = "How do I close an account?", "How can I close an account?"
NEAR, VECTOR = Near("e1", KEPT, 0.06, "g1"), np.array([1.0, 0.0], np.float32)


def test_its_bound_is_clopper_and_pearsons_by_the_share_of_its_yeses() -> None:
    known = Verified()
    assert known.per_request() == 1.0
    for number in range(400):
        known.saw(number % 4 == 0)
    for number in range(100):
        known.learned(number >= 3)
    assert known.per_request() == np.float64(beta.ppf(0.95, 4, 97)) * 0.25
    assert (known.labels, known.wrong) == (100, 3)


def test_it_serves_once_it_is_known_to_be_right_often_enough() -> None:
    known = Verified()
    for _ in range(FEWEST - 1):
        known.saw(True)
        known.learned(True)
    assert not known.serves(0.5), "too little is known"
    known.learned(True)
    assert known.serves(0.05)
    assert not known.serves(0.01)
    for _ in range(20):
        known.learned(False)
    assert not known.serves(0.05)


def experience(mode: str) -> Experience:
    return Experience(CacheRules.model_validate({"mode": mode, "wrong_per_request": 0.05, "likely": 0.99}))


def test_a_doubtful_question_is_one_that_nothing_serves_and_that_is_not_hopeless() -> None:
    assert experience("certified").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    assert experience("calibrated").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    far = Near("e2", "What is the tallest mountain?", 0.6, "g2")
    assert not experience("certified").decide(ASKED, [far], VECTOR, "p").doubtful
    assert not experience("fixed").decide(ASKED, [NEAR], VECTOR, "p").doubtful
    assert not experience("certified").decide(ASKED, [NEAR], VECTOR, "p:chat:turn").doubtful


def test_certified_a_yes_is_only_written_down_until_it_has_proved_itself() -> None:
    known = experience("certified")
    features = known.decide(ASKED, [NEAR], VECTOR, "p").features
    assert features is not None
    assert experience("calibrated").serves_verified("p")
    assert not known.serves_verified("p")
    for number in range(1000):
        known.apply(saw("p", features, verified=number % 2 == 0))
        if number % 2 == 0:
            known.apply(check("p", features, "g1", True, verified=True))
    assert known.serves_verified("p")
    assert known.verifier()["labels"] == 500
    for _ in range(100):
        known.apply(check("p", features, "g1", False, verified=True))
    assert not known.serves_verified("p"), "and back"


def test_what_the_certificate_has_used_of_the_budget_is_not_there_for_the_verifier() -> None:
    known = experience("certified")
    features = known.decide(ASKED, [NEAR], VECTOR, "p").features
    assert features is not None
    for _ in range(500):
        known.apply(saw("p", features, verified=True))
        known.apply(check("p", features, "g1", True, verified=True))
    before = known.certificate("p").in_force.per_request
    for certificate in known.due:
        certificate.renew()
    used = known.certificate("p").in_force.per_request
    assert used > before == 0
    known.take(CacheRules(mode="certified", wrong_per_request=used))
    assert not known.serves_verified("p")
