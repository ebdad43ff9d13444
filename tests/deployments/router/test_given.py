from __future__ import annotations

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext
from deployments.router.given import MOST, Given, GivenAnswers


def test_what_was_given_is_taken_back_once_by_who_asked() -> None:
    given = GivenAnswers()
    given.note(RequestContext("r1", key_id="ann"), Lookup("semantic", exact_key="e1", embedding=b"v"))
    given.note(RequestContext("r2", key_id="ann"), Lookup("miss", exact_key="e2", embedding=b"v"))
    given.note(RequestContext("r3", key_id="ann"), Lookup("bypass"))
    assert given.take("r1", "bob") is None
    assert given.take("r1", "ann") == Given("ann", "e1", b"v")
    assert given.take("r1", "ann") is None
    assert given.take("r2", "ann") == Given("ann", "e2", None), "its own answer is forgotten, not refused"
    assert given.take("r3", "ann") is None


def test_the_oldest_are_forgotten() -> None:
    given = GivenAnswers()
    for index in range(MOST + 1):
        given.note(RequestContext(f"r{index}", key_id="ann"), Lookup("exact", exact_key="e"))
    assert given.take("r0", "ann") is None
    assert given.take(f"r{MOST}", "ann") is not None
