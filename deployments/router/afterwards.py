"""What is done when nobody waits any more: shadow runs, asking anew what the cache has served, keeping answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from openai.types.chat import ChatCompletionChunk

from configs.catalog import Catalog
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.chunks import fold
from deployments.contract import ChatError, ChatRequest, RequestContext
from deployments.ledger.journal import Journal
from deployments.ledger.opinions import shadow_row
from deployments.ledger.prices import cost_of
from deployments.router.pace import Pace
from deployments.router.plans import Asking
from deployments.router.reader import GONE, Reader
from deployments.router.shadows import agreement, drawn

logger = logging.getLogger("ray.serve")

IDLE_PATIENCE_SECONDS = 600
"""A cached answer that could not be asked for anew by then is not."""

MOST_ASKED_ANEW = 20
"""That wait for an idle moment."""

Chat = Callable[[ChatRequest, RequestContext], AsyncIterator[Any]]


class Afterwards:
    """Of one Router; `chat` is its own."""

    def __init__(self, reader: Reader, pace: Pace, journal: Journal, catalog: Catalog, chat: Chat) -> None:
        self._reader, self._pace, self._journal, self._catalog = reader, pace, journal, catalog
        self._chat = chat
        self._pending: set[asyncio.Task[None]] = set()
        self._asked_anew: set[str] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """What nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def keep(self, chunks: list[ChatCompletionChunk], lookup: Lookup, seconds: float) -> bool:
        """Give the cache a whole answer that ended by itself, and took so long; whether it is one."""
        answer = fold(chunks)
        if any(choice.finish_reason != "stop" for choice in answer.choices):
            return False
        if not any(choice.message.content for choice in answer.choices):
            return False
        usage = answer.usage
        cost = cost_of(answer.model, usage.prompt_tokens, usage.completion_tokens, self._catalog) if usage else 0.0
        self.later(self._reader.keep(CachedAnswer.of(answer, seconds, cost), lookup))
        return True

    def served(self, request: ChatRequest, context: RequestContext, lookup: Lookup, share: float) -> None:
        """The cache has answered. What was stale is asked for anew; and a share of what was served from similar
        questions' answers is asked afresh, drawn by chance."""
        self.later(self._reader.served(lookup))
        # (What is checked is kept afresh too.)
        if lookup.outcome == "semantic" and drawn(context.request_id, share):
            self._ask_anew(request, replace(context, request_id=f"{context.request_id}-check", cache="check"))
        elif lookup.answer is not None and lookup.answer.stale:
            self._ask_anew(request, replace(context, request_id=f"{context.request_id}-fresh", cache="refresh"))

    def _ask_anew(self, request: ChatRequest, context: RequestContext) -> None:
        """Once nothing else is to do; the same only once."""
        body = request.model_dump_json()
        if body in self._asked_anew or len(self._asked_anew) >= MOST_ASKED_ANEW:
            return
        self._asked_anew.add(body)
        self.later(self._anew(request, context, body))

    async def _anew(self, request: ChatRequest, context: RequestContext, body: str) -> None:
        """It is a request like any other, with a row of its own in the Ledger; the cache keeps the fresh answer,
        or compares the two, when it is given it."""
        try:
            if not await self._idle():
                return
            asked = replace(context, received=time.time())
            steps = self._chat(request.model_copy(update={"stream": False}), asked)
            async with aclosing(steps) as answer:  # type: ignore[type-var]
                async for _ in answer:
                    pass
        except ChatError as error:
            logger.warning("a cached answer was not asked for anew: %s", error)
        finally:
            self._asked_anew.discard(body)

    async def _idle(self) -> bool:
        """Wait until nobody waits for an answer; whether that came."""
        for _ in range(IDLE_PATIENCE_SECONDS):
            await asyncio.sleep(1)
            if not self._pace.busy:
                return True
        return False

    def shadow(
        self, asking: Asking, variant: str, chunks: list[ChatCompletionChunk], other: str | None = None
    ) -> None:
        """Ask the largest too, or another one, if nobody else wants anything now, and write down whether it
        agrees."""
        self.later(self._shadow(asking, variant, chunks, other))

    async def _shadow(
        self, asking: Asking, variant: str, chunks: list[ChatCompletionChunk], other: str | None
    ) -> None:
        able = asking.rules.able(asking.request, asking.context, asking.found)
        largest = other or max(able, key=lambda name: able[name], default=variant)
        answer = fold(chunks).choices[0]
        unwanted = other is None and asking.named
        if unwanted or largest == variant or self._pace.busy or answer.finish_reason != "stop":
            return
        request = asking.request.model_copy(update={"stream": False, "logprobs": False, "top_logprobs": None})
        context = replace(asking.context, request_id=f"{asking.context.request_id}-shadow")
        try:
            async with aclosing(asking.generate(largest, request, context)) as steps:
                second = fold([chunk async for found in steps for chunk in found])
            said = second.choices[0].message.content or ""
            agreed = await agreement(answer.message.content or "", said, self._reader.embed)
            self._journal.append(
                shadow_row(asking.context.request_id, variant, largest, agreed, second.usage, self._catalog)
            )
        except (ChatError, ValueError, OSError, *GONE) as error:
            logger.warning("a shadow run came to nothing: %s", error)
