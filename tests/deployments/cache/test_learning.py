from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisGone

from configs.routing import CacheRules
from deployments.cache import learning
from deployments.cache.experience import Event, Experience, check, join
from deployments.cache.learning import Learning
from deployments.cache.likeness import FEATURES
from deployments.cache.patience import Patience
from tests.waiting import until


class Log:
    """Redis' stream, in a list."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str, Event]] = []
        self.away = False
        self.refused = 0

    async def note(self, events: list[Event], by: str) -> None:
        if self.away:
            self.refused += 1
            raise RedisGone
        self.kept += [(f"{len(self.kept) + place:09d}", by, event) for place, event in enumerate(events, 1)]

    async def events(self, after: str = "0") -> list[tuple[str, str, Event]]:
        if self.away:
            raise RedisGone
        return [one for one in self.kept if one[0] > after]


class Replica:
    def __init__(self, log: Log) -> None:
        self.experience = Experience(CacheRules())
        self.learning = Learning(self.experience, log, Patience())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "DIGEST_SECONDS", 0.01)


async def test_what_one_learns_the_other_hears_once_and_the_next_start_too() -> None:
    log = Log()
    one, other = Replica(log), Replica(log)
    for replica in (one, other):
        await replica.learning.hear()
    one.learning.learn(join("a", "b"))
    assert one.experience.group("a") == "b", "at once"
    assert other.experience.group("a") == "a"
    await until(lambda: len(log.kept) == 1)
    await other.learning.hear()
    assert other.experience.group("a") == "b"
    await one.learning.hear()
    other.learning.learn(join("c", "d"))
    await until(lambda: len(log.kept) == 2)
    await one.learning.hear()
    assert one.experience.group("c") == "d"
    later = Replica(log)
    await later.learning.hear()
    assert (later.experience.group("a"), later.experience.group("c")) == ("b", "d")
    assert len(log.kept) == 2


async def test_what_nobody_understands_costs_nothing_else() -> None:
    log = Log()
    one = Replica(log)
    await one.learning.hear()
    await log.note([{"kind": "of tomorrow"}, {}, join("a", "b")], "somebody")
    await one.learning.hear()
    assert one.experience.group("a") == "b"


async def test_while_redis_is_away_it_learns_and_hears_the_rest_when_it_is_back() -> None:
    log = Log()
    await log.note([join("x", "y")], "somebody")
    log.away = True
    one = Replica(log)
    await one.learning.hear()
    one.learning.learn(join("a", "b"))
    await until(lambda: log.refused)
    assert one.experience.group("a") == "b"
    log.away = False
    one.learning.learn(join("c", "d"))
    await until(lambda: len(log.kept) == 3)
    assert one.experience.group("x") == "y"
    assert [event for _, _, event in log.kept[1:]] == [join("a", "b"), join("c", "d")], "nothing was lost"


async def test_what_could_not_be_written_is_written_by_itself_later() -> None:
    log = Log()
    one = Replica(log)
    await one.learning.hear()
    log.away = True
    one.learning.learn(join("a", "b"))
    await until(lambda: log.refused)
    log.away = False
    await one.learning.keep_up()
    assert [event for _, _, event in log.kept] == [join("a", "b")]


async def test_two_that_hear_at_once_hear_everything_once() -> None:
    log = Log()
    one = Replica(log)
    features = [0.9] * len(FEATURES)
    await log.note([check("p", features, "g", True)] * 50, "somebody")
    await asyncio.gather(one.learning.hear(), one.learning.keep_up())
    assert one.experience.report()["p"][0] == 50
