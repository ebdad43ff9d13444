from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from deployments.chunks import ChunkBuilder
from deployments.router.asked import Asked, Chunks
from tests.waiting import until


class Variant:
    """Says `count` words, and notes what is done to it."""

    def __init__(self, count: int = 2, fails: bool = False) -> None:
        self.count, self.fails = count, fails
        self.asked = self.stopped = False
        self.accepts = asyncio.Event()

    async def answer(self) -> AsyncGenerator[Chunks, None]:
        self.asked = True
        try:
            await self.accepts.wait()
            if self.fails:
                raise RuntimeError("it is gone")
            for number in range(self.count):
                yield [ChunkBuilder("id", "variant").delta(0, content=str(number))]
        finally:
            self.stopped = True


async def said(asked: Asked) -> list[str]:
    return [chunk.choices[0].delta.content or "" async for chunks in asked.chunks() for chunk in chunks]


async def test_nobody_is_asked_who_was_not_to_begin() -> None:
    variant = Variant()
    asked = Asked(variant.answer())
    await asyncio.sleep(0.01)
    await asked.aclose()
    assert not variant.asked


@pytest.mark.parametrize("early", [False, True])
async def test_the_answer_is_the_same_whenever_it_began(early: bool) -> None:
    variant = Variant()
    asked = Asked(variant.answer())
    if early:
        asked.begin()
        asked.begin()
        await until(lambda: variant.asked)
    assert variant.asked == early
    variant.accepts.set()
    assert await said(asked) == ["0", "1"]
    await asked.aclose()
    assert variant.stopped


async def test_one_that_has_begun_in_vain_is_stopped() -> None:
    variant = Variant()
    asked = Asked(variant.answer())
    asked.begin()
    await until(lambda: variant.asked)
    await asked.aclose()
    assert variant.stopped


async def test_one_that_says_nothing_ends_and_one_that_fails_fails() -> None:
    silent, broken = Variant(count=0), Variant(fails=True)
    for variant in (silent, broken):
        variant.accepts.set()
    assert await said(Asked(silent.answer())) == []
    with pytest.raises(RuntimeError):
        await said(Asked(broken.answer()))
