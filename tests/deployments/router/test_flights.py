from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.router.flights import Flight, Flights

KEY = ("k", True)


class Source:
    """An answer that is said word by word, when it is let."""

    def __init__(self, words: int, error: Exception | None = None) -> None:
        self.words, self.error = words, error
        self.step = asyncio.Semaphore(0)
        self.started = self.closed = 0

    async def steps(self) -> AsyncGenerator[int, None]:
        self.started += 1
        try:
            for word in range(self.words):
                await self.step.acquire()
                yield word
            if self.error:
                raise self.error
        finally:
            self.closed += 1

    def let(self, words: int) -> None:
        for _ in range(words):
            self.step.release()


async def heard(flight: Flight[int], most: int | None = None) -> list[int]:
    found = []
    async with aclosing(flight.listen()) as said:  # type: ignore[type-var]
        async for one in said:
            found.append(one)
            if len(found) == most:
                break
    return found


async def test_sixty_four_at_once_are_one_answer_and_hear_all_of_it() -> None:
    flights, source = Flights[int](), Source(5)
    first = flights.start(KEY, source.steps())
    listening = [asyncio.ensure_future(heard(first))]
    source.let(2)
    await asyncio.sleep(0)
    for _ in range(63):
        joined = flights.join(KEY)
        assert joined is first
        listening.append(asyncio.ensure_future(heard(joined)))
    source.let(3)
    assert await asyncio.gather(*listening) == [[0, 1, 2, 3, 4]] * 64
    assert (source.started, source.closed) == (1, 1)
    assert flights.join(KEY) is None, "nobody joins what is over"


async def test_who_asked_first_may_leave_and_the_others_hear_the_rest() -> None:
    flights, source = Flights[int](), Source(4)
    flight = flights.start(KEY, source.steps())
    leaves, stays = asyncio.ensure_future(heard(flight, 1)), asyncio.ensure_future(heard(flight))
    await asyncio.sleep(0)
    source.let(1)
    assert await leaves == [0]
    source.let(3)
    assert await stays == [0, 1, 2, 3]
    assert source.started == 1


async def test_one_that_is_cancelled_takes_nobody_with_it() -> None:
    flights, source = Flights[int](), Source(3)
    flight = flights.start(KEY, source.steps())
    killed, stays = asyncio.ensure_future(heard(flight)), asyncio.ensure_future(heard(flight))
    await asyncio.sleep(0)
    killed.cancel()
    source.let(3)
    assert await stays == [0, 1, 2]
    assert killed.cancelled() or isinstance(await asyncio.gather(killed, return_exceptions=True), list)


async def test_when_the_last_has_left_it_is_stopped_before_that_one_is_gone() -> None:
    flights, source = Flights[int](), Source(100)
    flight = flights.start(KEY, source.steps())
    source.let(1)
    assert await heard(flight, 1) == [0]
    assert source.closed == 1
    assert flights.join(KEY) is None
    again = flights.start(KEY, source.steps())
    source.let(100)
    assert len(await heard(again)) == 100


async def test_a_failure_is_everyones() -> None:
    flights, source = Flights[int](), Source(1, ValueError("no"))
    flight = flights.start(KEY, source.steps())
    both = [asyncio.ensure_future(heard(flight)) for _ in range(2)]
    source.let(1)
    for outcome in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(outcome, ValueError)
    with pytest.raises(ValueError, match="no"):
        await heard(flight)


async def test_a_stream_and_a_whole_answer_are_not_the_same() -> None:
    flights, source = Flights[int](), Source(1)
    flight = flights.start(KEY, source.steps())
    assert flights.join(("k", False)) is None
    source.let(1)
    await heard(flight)


async def test_one_that_ends_does_not_hide_the_next() -> None:
    flights, first, second = Flights[int](), Source(3), Source(1)
    flight = flights.start(KEY, first.steps())
    first.let(1)
    leaving = asyncio.ensure_future(heard(flight, 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert flight.over
    after = flights.start(KEY, second.steps())
    await leaving
    await asyncio.sleep(0)
    assert flights.join(KEY) is after
    second.let(1)
    assert await heard(after) == [0]
    await asyncio.sleep(0)
    assert flights.join(KEY) is None


async def test_when_the_one_who_pays_leaves_the_first_that_stays_to_the_end_takes_over() -> None:
    flights, source = Flights[int](), Source(3)
    flight = flights.start(KEY, source.steps())

    async def pays(most: int | None) -> None:
        async with aclosing(flight.listen(pays=True)) as said:  # type: ignore[type-var]
            async for one in said:
                if one == most:
                    return

    first = asyncio.ensure_future(pays(0))
    others = [asyncio.ensure_future(heard(flight)) for _ in range(3)]
    await asyncio.sleep(0)
    source.let(1)
    await first
    source.let(2)
    assert await asyncio.gather(*others) == [[0, 1, 2]] * 3
    assert [flight.takes_over() for _ in range(3)] == [True, False, False]


async def test_one_who_pays_and_hears_all_of_it_leaves_nothing_to_pay() -> None:
    flights, source = Flights[int](), Source(1)
    flight = flights.start(KEY, source.steps())
    source.let(1)
    async with aclosing(flight.listen(pays=True)) as said:  # type: ignore[type-var]
        assert [one async for one in said] == [0]
    assert not flight.takes_over()
