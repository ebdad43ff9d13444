from __future__ import annotations

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext
from deployments.router.decision import Given
from deployments.router.given import MOST, GivenAnswers, given_by

ANN = RequestContext("r", key_id="ann")


def test_what_was_given_is_known_by_how_it_was_found() -> None:
    assert given_by(ANN, Lookup("semantic", exact_key="e1", embedding=b"v")) == Given("ann", "e1", b"v")
    assert given_by(ANN, Lookup("miss", exact_key="e2", embedding=b"v")) == Given("ann", "e2", None)
    assert given_by(ANN, Lookup("bypass")) is None


def test_it_is_taken_back_once_by_who_asked() -> None:
    given, one = GivenAnswers(), Given("ann", "e1", b"v")
    given.note("r1", one)
    given.note("r2", None)
    assert given.take("r1", "bob") is None
    assert given.take("r1", "ann") == one
    assert given.take("r1", "ann") is None
    assert given.take("r2", "ann") is None


def test_the_oldest_are_forgotten() -> None:
    given = GivenAnswers()
    for index in range(MOST + 1):
        given.note(f"r{index}", Given("ann", "e", None))
    assert given.take("r0", "ann") is None
    assert given.take(f"r{MOST}", "ann") is not None
