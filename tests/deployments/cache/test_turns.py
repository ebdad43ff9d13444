"""Later turns of conversations are judged by their own checks."""

from __future__ import annotations

import numpy as np

from configs.routing import CacheRules
from deployments.cache.answer import Lookup, Near
from deployments.cache.experience import ALL, Experience, check, saw

VECTOR = np.array([1.0, 0.0], np.float32)
SAME = Near("e1", "and in the winter", 0.01, "g1")
RULES = CacheRules(mode="certified", wrong_per_request=0.05)
FIRST, TURN = (
    Lookup("miss", scope="ann", kind="chat").partition,
    Lookup("miss", scope="ann", kind="chat", turn=True).partition,
)


def taught(partition: str, count: int = 400) -> Experience:
    known = Experience(RULES)
    for _ in range(count):
        features = known.decide("And in the winter?", [SAME], VECTOR, partition).features
        assert features is not None
        known.apply(saw(partition, features))
        known.apply(check(partition, features, "g1", True))
        for certificate in known.due:
            certificate.renew()
    return known


def test_all_but_the_same_words_are_enough_for_a_first_question_and_not_for_a_turn() -> None:
    assert Experience(RULES).decide("And in the winter?", [SAME], VECTOR, FIRST).serves == SAME
    assert Experience(RULES).decide("And in the winter?", [SAME], VECTOR, TURN).serves is None
    for mode in ("fixed", "calibrated"):
        other = Experience(CacheRules.model_validate({"mode": mode, "likely": 0.1}))
        assert other.decide("And in the winter?", [SAME], VECTOR, FIRST).serves == SAME
        assert other.decide("And in the winter?", [SAME], VECTOR, TURN).serves is None


def test_what_was_checked_of_first_questions_says_nothing_of_turns_and_the_other_way_round() -> None:
    known = taught(FIRST)
    assert known.decide("And in the winter?", [SAME], VECTOR, TURN).serves is None
    known = taught(TURN)
    assert known.decide("And in the winter?", [SAME], VECTOR, TURN).serves == SAME
    assert ALL not in known.report()
