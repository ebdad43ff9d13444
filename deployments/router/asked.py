"""A variant's answer, which is asked for when someone says so, and at the latest when it is read. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from openai.types.chat import ChatCompletionChunk

Chunks = list[ChatCompletionChunk]


class Asked:
    """`steps`: the answer, of which nothing happens until its first item is wanted."""

    def __init__(self, steps: AsyncGenerator[Chunks, None]) -> None:
        self._steps = steps
        self._first: asyncio.Future[Chunks] | None = None

    def begin(self) -> None:
        """Ask now. The first chunks come when the variant has accepted the request."""
        if self._first is None:
            self._first = asyncio.ensure_future(anext(self._steps))

    async def chunks(self) -> AsyncGenerator[Chunks, None]:
        """All of them; closing this stops the variant."""
        async with aclosing(self._steps):
            self.begin()
            assert self._first is not None
            try:
                yield await self._first
            except StopAsyncIteration:
                return  # It has said nothing at all.
            async for chunks in self._steps:
                yield chunks

    async def aclose(self) -> None:
        """Stop the variant where it was asked; returns when it has let go."""
        if self._first is not None:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        await self._steps.aclose()
