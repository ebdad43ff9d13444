from __future__ import annotations

import json

import numpy as np
import pytest

from configs.routing import CacheRules
from deployments.cache.answer import Near
from deployments.cache.certificate import FEWEST
from deployments.cache.experience import ALL, OWN, Event, Experience, Verdict, check, join, saw, veto

ASKED = "How do I close an account?"
KEPT = "How can I close an account?"
NEAR = Near("e1", KEPT, 0.06, "g1")
VECTOR = np.array([1.0, 0.0], np.float32)


def decided(rules: dict[str, object], *near: Near, experience: Experience | None = None) -> Verdict:
    experience = experience or Experience(CacheRules.model_validate(rules))
    return experience.decide(ASKED, near, VECTOR, "p")


def renew(experience: Experience) -> None:
    for certificate in experience.due:
        certificate.renew()


def taught(rules: CacheRules, partition: str, count: int, same: bool = True) -> Experience:
    """One that has seen and checked this very neighbourhood so many times."""
    experience = Experience(rules)
    for _ in range(count):
        features = experience.decide(ASKED, [NEAR], VECTOR, partition).features
        assert features is not None
        experience.apply(saw(partition, features))
        experience.apply(check(partition, features, "g1", same))
        renew(experience)
    return experience


def test_fixed_serves_whatever_is_near_and_no_guard_speaks_against() -> None:
    assert decided({"mode": "fixed"}, NEAR).serves == NEAR
    assert decided({"mode": "fixed", "distance": 0.05}, NEAR).serves is None
    negated = Near("e0", "How do I not close an account?", 0.01, "g0")
    assert decided({"mode": "fixed"}, negated, NEAR).serves == NEAR, "the second, where the first is a trap"
    assert decided({"mode": "fixed", "guards": False}, negated).serves == negated


def test_calibrated_asks_for_a_probability() -> None:
    likely = decided({"mode": "calibrated"}, NEAR).likely
    assert likely is not None
    assert decided({"mode": "calibrated", "likely": likely - 0.01}, NEAR).serves == NEAR
    assert decided({"mode": "calibrated", "likely": likely + 0.01}, NEAR).serves is None


def test_certified_serves_all_but_the_same_words_until_more_is_known_and_then_what_was_checked() -> None:
    rules = CacheRules(mode="certified", wrong_per_request=0.05)
    assert decided({"mode": "certified"}, NEAR).serves is None
    same_words = Near("e2", "how do i close an account", 0.02, "g2")
    assert decided({"mode": "certified"}, same_words).serves == same_words
    other_number = Near("e3", "How do I close 2 account?", 0.02, "g2")
    assert decided({"mode": "certified"}, other_number).serves is None
    assert decided({}, NEAR, experience=taught(rules, "p", FEWEST * 2)).serves == NEAR
    assert decided({}, NEAR, experience=taught(rules, "p", FEWEST * 2, same=False)).serves is None


def test_what_is_all_but_the_same_words_serves_no_more_once_it_was_found_wrong_too_often() -> None:
    same_words = Near("e2", "how do i close an account", 0.02, "g2")
    experience = Experience(CacheRules(mode="certified", wrong_per_request=0.05))
    for checked in range(12):
        verdict = experience.decide(ASKED, [same_words], VECTOR, "p")
        assert verdict.features is not None
        if checked < 10:
            assert verdict.serves == same_words
        experience.apply(check("p", verdict.features, "g2", checked < 9))
    assert experience.decide(ASKED, [same_words], VECTOR, "p").serves is None


def test_a_partition_is_judged_by_its_own_checks_once_it_has_enough() -> None:
    rules = CacheRules(mode="certified", wrong_per_request=0.05)
    experience = taught(rules, "good", OWN + 200)
    assert experience.decide(ASKED, [NEAR], VECTOR, "unknown").serves == NEAR, "by all of them together"
    other = Near("e2", KEPT, 0.06, "g2")
    for _ in range(OWN):
        features = experience.decide(ASKED, [other], VECTOR, "bad").features
        assert features is not None
        experience.apply(saw("bad", features))
        experience.apply(check("bad", features, "g2", False))
        renew(experience)
    assert experience.decide(ASKED, [other], VECTOR, "bad").serves is None
    assert experience.decide(ASKED, [NEAR], VECTOR, "good").serves == NEAR
    assert set(experience.report()) == {ALL, "good", "bad"}


def test_a_veto_keeps_an_entry_from_such_a_question_and_from_no_other() -> None:
    experience = Experience(CacheRules(mode="fixed", veto_distance=0.05))
    experience.apply(veto("e1", VECTOR.astype("<f4").tobytes()))
    assert experience.decide(ASKED, [NEAR], VECTOR, "p").serves is None
    a_little_off = np.array([0.99, np.sqrt(1 - 0.99**2)])
    assert experience.decide(ASKED, [NEAR], a_little_off, "p").serves is None
    assert experience.decide(ASKED, [NEAR], np.array([0.0, 1.0]), "p").serves == NEAR
    other = Near("e9", KEPT, 0.07, "g1")
    assert experience.decide(ASKED, [NEAR, other], VECTOR, "p").serves == other
    assert experience.vetoes("e1") == 1


def test_groups_that_say_the_same_become_one_with_one_record() -> None:
    experience = Experience(CacheRules())
    for event in (join("b", "a"), join("c", "b"), join("a", "c"), join("a", "a")):
        experience.apply(event)
    assert {experience.group(name) for name in "abc"} == {"a"}
    near = [Near("1", KEPT, 0.06, "a"), Near("2", "Closing it", 0.07, "c"), Near("3", "Opening it", 0.2, "d")]
    features = experience.decide(ASKED, near, VECTOR, "p").features
    assert features is not None
    assert features[1] == pytest.approx(0.14), "the gap is to what says something else"


def test_what_was_learned_is_there_after_a_restart_and_nonsense_costs_nothing_else() -> None:
    rules = CacheRules(mode="certified", wrong_per_request=0.05)
    before, events = Experience(rules), list[Event]()
    for _ in range(FEWEST * 2):
        features = before.decide(ASKED, [NEAR], VECTOR, "p").features
        assert features is not None
        events += [saw("p", features), check("p", features, "g1", True)]
        for event in events[-2:]:
            before.apply(event)
        renew(before)
    for certificate in (before.certificate("p"), before.certificate("other")):
        certificate.renew()
    older = [{**check("p", features, "g1", True), "features": [*known]} for known in ([0.9], [0.0] * 99)]
    nonsense: list[Event] = [{}, {"kind": "else"}, {"kind": "check", "features": "x", "partition": "p"}, *older]
    after = Experience(rules)
    after.apply_all(json.loads(json.dumps([*nonsense, *events])))
    assert after.report()[ALL] == before.report()[ALL]
    assert after.decide(ASKED, [NEAR], VECTOR, "p").serves == NEAR


def test_nothing_near_is_a_miss() -> None:
    verdict = decided({"mode": "fixed"})
    assert (verdict.serves, verdict.features) == (None, None)


async def test_other_rules_keep_what_was_learned_and_reckoning_in_a_thread_is_reckoning() -> None:
    rules = CacheRules(mode="certified", wrong_per_request=0.001)
    experience = Experience(rules)
    for _ in range(FEWEST * 2):
        features = experience.decide(ASKED, [NEAR], VECTOR, "p").features
        assert features is not None
        experience.apply(saw("p", features))
        experience.apply(check("p", features, "g1", True))
    assert experience.due
    await experience.renew()
    assert not experience.due
    assert experience.decide(ASKED, [NEAR], VECTOR, "p").serves is None, "too little for so strict a promise"
    experience.take(CacheRules(mode="certified", wrong_per_request=0.05))
    assert experience.decide(ASKED, [NEAR], VECTOR, "p").serves == NEAR


def test_fixed_is_judged_by_what_it_serves() -> None:
    negated = Near("e0", "How do I not close an account?", 0.01, "g0")
    verdict = decided({"mode": "fixed"}, negated, NEAR)
    assert verdict.near[0] == verdict.serves == NEAR
