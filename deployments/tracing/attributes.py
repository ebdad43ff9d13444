"""What spans say of a request, by OpenTelemetry's conventions for generative AI. Never its words, unless the owner
wants them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any

from openai.types.chat import ChatCompletionChunk

from deployments.chunks import fold
from deployments.contract import AUTO, ChatRequest, RequestContext
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.decision import Routed
from deployments.tracing.spans import Attributes, Step, step

MOST_CHARS = 20_000
"""Of a question or an answer in a span."""

Chunks = list[ChatCompletionChunk]


def of_request(request: ChatRequest, model: str | None) -> Attributes:
    """What was asked for; `model`: of whom, where that is known."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groupqwen",
        "gen_ai.request.model": model,
        "gen_ai.request.stream": request.stream,
        "gen_ai.request.max_tokens": request.token_limit,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.choice.count": request.n if request.n > 1 else None,
    }


def of_progress(progress: Progress) -> Attributes:
    """What was seen of an answer."""
    usage = progress.usage
    details = usage.prompt_tokens_details if usage else None
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": details.cached_tokens if details else None,
        "gen_ai.response.finish_reasons": [progress.finish_reason] if progress.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": progress.first_token,
    }


def tell_route(own: Step, record: QueryRecord, progress: Progress) -> None:
    """The end of the Router's part: what it has written down, but the question and an error's words."""
    if not own:
        return
    route = record.decision
    own.set(of_progress(progress))
    own.set(
        {
            "gen_ai.response.model": record.variant,
            "groupqwen.variant": record.variant,
            "groupqwen.cache": record.cache,
            "groupqwen.cache_distance": record.cache_distance,
            "groupqwen.complexity": route.complexity if route else None,
            "groupqwen.level": route.level if route else None,
            "groupqwen.task": route.task if route else None,
            "groupqwen.decided_ms": route.decided_ms if route else None,
            "groupqwen.cost_usd": record.cost_usd,
        }
    )
    for attempt in route.attempts if route else ():
        told = ("variant", "outcome", "tokens", "ms", "confidence")
        own.event("attempt", {f"groupqwen.{name}": getattr(attempt, name) for name in told})
    if record.status >= 400:
        own.fail("client_gone" if record.status == 499 else str(record.status), record.status)


async def from_gateway(
    answer: Callable[[ChatRequest, RequestContext], AsyncGenerator[Any, None]],
    request: ChatRequest,
    context: RequestContext,
) -> AsyncGenerator[Any, None]:
    """The Gateway's answer in the span that is above all others, which begins when the request came."""
    progress = Progress(context.received)
    said: Chunks = []
    assert context.trace is not None
    words = context.trace.words
    with step(context, "chat", "server", context.received) as own:
        own.set({**of_request(request, None), "gen_ai.conversation.id": context.session})
        own.set({"groupqwen.key_id": context.key_id, "groupqwen.device": context.device})
        try:
            async with aclosing(answer(request, own.within(context))) as items:
                async for item in items:
                    progress.see(item)
                    if isinstance(item, Routed):
                        variant = item.decision.variant
                        # (What a client names is a model only once it was found to be one.)
                        own.set({"gen_ai.request.model": request.model or AUTO, "groupqwen.cache": item.cache})
                        own.set({"gen_ai.response.model": variant, "groupqwen.variant": variant})
                    elif words and isinstance(item, ChatCompletionChunk):
                        said.append(item)
                    yield item
        finally:
            own.set(of_progress(progress))
            if words:
                own.set(_words(request, said))


def _words(request: ChatRequest, said: Chunks) -> Attributes:
    answer = [choice.message.model_dump(mode="json") for choice in fold(said).choices] if said else []
    return {
        "gen_ai.input.messages": json.dumps(request.messages, ensure_ascii=False)[:MOST_CHARS],
        "gen_ai.output.messages": json.dumps(answer, ensure_ascii=False)[:MOST_CHARS],
    }


class Answered:
    """A variant's span, with what it consists of: until it is let in (a variant that is swapped may have to come
    first), until its engine takes it up, until its first token, until its last."""

    def __init__(
        self, name: str, request: ChatRequest, context: RequestContext, taken_up: dict[str, float]
    ) -> None:
        self._request_id, self._taken_up = context.request_id, taken_up
        self._own = step(context, f"chat {name}", "server")
        self._own.set({**of_request(request, name), "groupqwen.variant": name})
        self._began = self._let_in = time.time()
        self._progress = Progress(self._began)

    def within(self, context: RequestContext) -> RequestContext:
        """The context for what is done inside."""
        return self._own.within(context)

    def let_in(self) -> None:
        """It is the engine's from now on."""
        self._let_in = time.time()

    def see(self, chunks: Chunks) -> None:
        """A part of the answer."""
        for chunk in chunks:
            self._progress.see(chunk)

    def __enter__(self) -> Answered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds, end = self._progress.first_token, time.time()
        first = None if seconds is None else self._began + seconds
        reading = self._taken_up.pop(self._request_id, self._let_in)
        self._own.set(of_progress(self._progress))
        self._own.past("queue", self._began, reading, {"groupqwen.wait_for_memory_s": self._let_in - self._began})
        if first is not None or self._progress.usage is not None:
            self._own.past("prefill", reading, first or end)
        if first is not None:
            self._own.past("decode", first, end)
        self._own.__exit__(kind, error, traceback)


class NotWatched(Answered):
    """Where the request is not traced. There is one of it."""

    def __init__(self) -> None:
        pass

    def within(self, context: RequestContext) -> RequestContext:
        return context

    def let_in(self) -> None:
        pass

    def see(self, chunks: Chunks) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


NOT_WATCHED = NotWatched()


def answered(name: str, request: ChatRequest, context: RequestContext, taken_up: dict[str, float]) -> Answered:
    """What watches a variant's answer. `taken_up`: by request, when the engine took it up, where that is said."""
    return NOT_WATCHED if context.trace is None else Answered(name, request, context, taken_up)
