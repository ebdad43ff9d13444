from __future__ import annotations

import json

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext
from deployments.router.decision import Given
from deployments.router.given import given_by

ANN = RequestContext("r", key_id="ann")


def test_what_was_given_is_known_by_how_it_was_found() -> None:
    assert given_by(ANN, Lookup("semantic", exact_key="e1", embedding=b"v")) == Given("ann", "e1", b"v")
    assert given_by(ANN, Lookup("miss", exact_key="e2", embedding=b"v")) == Given("ann", "e2", None)
    assert given_by(ANN, Lookup("bypass")) is None


def test_it_is_the_same_after_it_was_written_down() -> None:
    for given in (Given("ann", "e1", b"\x00v"), Given("ann", "e1", None)):
        assert Given.of(json.loads(json.dumps(given.as_dict()))) == given
