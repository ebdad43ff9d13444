from __future__ import annotations

import asyncio

from redis.exceptions import ConnectionError as RedisConnectionError

from deployments.cache.patience import Patience


async def answers() -> str:
    return "found"


async def hangs() -> str:
    await asyncio.sleep(60)
    return "late"


async def fails() -> str:
    raise RedisConnectionError("refused")


async def test_an_answer_in_time_is_passed_on() -> None:
    asked = Patience()
    assert await asked.ask(answers, 1000) == "found"
    assert asked.error is None


async def test_a_late_or_failed_answer_is_none_and_nobody_asks_again_for_a_while(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for bad, times in ((hangs, 2), (fails, 1)):
        asked = Patience()
        for _ in range(times):
            assert await asked.ask(bad, 5) is None
        assert asked.error
        assert await asked.ask(answers, 1000) is None, "asked although Redis had just failed"
        monkeypatch.setattr(asked, "_blocked_until", 0.0)
        assert await asked.ask(answers, 1000) == "found"
        assert asked.error is None


async def test_one_late_answer_stops_nobody_from_asking() -> None:
    asked = Patience()
    for _ in range(2):
        assert await asked.ask(hangs, 5) is None
        assert await asked.ask(answers, 1000) == "found"
