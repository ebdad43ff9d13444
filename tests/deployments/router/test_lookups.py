from __future__ import annotations

from deployments.cache.answer import CachedAnswer, Lookup
from deployments.router.lookups import Lookups


def test_a_variant_waits_for_the_search_while_that_finds_something() -> None:
    lookups = Lookups()
    assert lookups.head_start(0.02) == 0
    lookups.searched(True)
    assert lookups.head_start(0.02) == 0.02
    for _ in range(20):
        lookups.searched(False)
    assert lookups.head_start(0.02) == 0


def test_hits_save_what_their_answers_took() -> None:
    lookups = Lookups()
    assert lookups.report()["hit_rate"] is None
    answer = CachedAnswer("v", "text", None, 5, 10, 0, seconds=2.5, cost_usd=0.25)
    for lookup in (
        Lookup("exact", answer),
        Lookup("semantic", answer),
        Lookup("coalesced"),
        Lookup("miss"),
        Lookup("bypass"),
    ):
        lookups.seen(lookup)
    said = lookups.report()
    assert said["hit_rate"] == 0.75
    assert said["outcomes"] == {"exact": 1, "semantic": 1, "coalesced": 1, "miss": 1, "bypass": 1}
    assert (said["completion_tokens_saved"], said["seconds_saved"], said["cost_saved_usd"]) == (20, 5.0, 0.5)
