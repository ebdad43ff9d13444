"""From routed items to what a client reads: server-sent events, or one body. Knows nothing of Ray.

Each answer carries a `metadata` object: the variant, what the cache said, the time it took, the route.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.types import Receive, Scope, Send

from deployments.budgets.book import Standing
from deployments.chunks import fold
from deployments.contract import ChatError, RequestContext
from deployments.router.decision import HITS, Routed

logger = logging.getLogger("ray.serve")

Item = Standing | Routed | ChatCompletionChunk
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def headers(routed: Routed | None, standing: Standing | None = None) -> dict[str, str]:
    """The headers that tell which variant answered and why, and what is left to the key."""
    told = {} if standing is None else allowance(standing)
    if routed is None:
        return told
    told |= {
        "x-groupqwen-variant": routed.decision.variant,
        "x-groupqwen-cache": routed.cache,
        "x-groupqwen-decision": routed.decision.header(),
    }
    if routed.cache_distance is not None:
        told["x-groupqwen-cache-distance"] = f"{routed.cache_distance:.4f}"
    if routed.cached_at is not None:
        told["age"] = str(max(0, round(time.time()) - routed.cached_at))
    return told


def allowance(standing: Standing) -> dict[str, str]:
    """What is left to a key this minute, as OpenAI's headers say it."""
    left = {"requests": standing.requests_left, "tokens": standing.tokens_left}
    return {
        f"x-ratelimit-remaining-{what}": str(max(0, int(number)))
        for what, number in left.items()
        if number is not None
    }


def metadata(routed: Routed | None, context: RequestContext) -> dict[str, Any]:
    """What every answer says about itself."""
    about: dict[str, Any] = {
        "request_id": context.request_id,
        "latency_ms": round((time.time() - context.received) * 1e3, 1),
    }
    if routed is not None:
        about |= {
            "variant": routed.decision.variant,
            "cache": routed.cache,
            "cache_hit": routed.cache in HITS,
            "cache_distance": routed.cache_distance,
            "route": routed.decision.as_dict(),
        }
    return about


def body(chunks: list[ChatCompletionChunk], routed: Routed | None, context: RequestContext) -> dict[str, Any]:
    """A whole `ChatCompletion` with its metadata."""
    answer = dump(fold(chunks))
    answer["metadata"] = metadata(routed, context)
    return answer


def dump(value: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    """As JSON types; fields that were never set are left out, nulls that OpenAI sends are kept."""
    return value.model_dump(mode="json", exclude_unset=True)


def frame(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return (
        b"data: "
        + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        + b"\n\n"
    )


@dataclass
class Whole:
    """An answer that is collected."""

    chunks: list[ChatCompletionChunk] = field(default_factory=list)
    routed: Routed | None = None
    standing: Standing | None = None

    def take(self, item: Item) -> None:
        """One more item of it."""
        if isinstance(item, ChatCompletionChunk):
            self.chunks.append(item)
        elif isinstance(item, Routed):
            self.routed = item
        else:
            self.standing = item

    @property
    def headers(self) -> dict[str, str]:
        """Which variant answered and why, and what is left to the key."""
        return headers(self.routed, self.standing)


class AnswerStream:
    """A routed answer as SSE frames. `start` waits until the request was accepted or refused, so that a
    refusal has its HTTP status; after that the headers go out and errors are events."""

    def __init__(
        self,
        items: AsyncIterator[Item],
        context: RequestContext,
        *,
        include_usage: bool,
        keep_alive: float,
        deadline: float,
        convert: Callable[[ChatCompletionChunk], dict[str, Any] | None] = dump,
        on_error: Callable[[ChatError], None] = lambda _: None,
    ) -> None:
        self._items = items
        self._context = context
        self._include_usage = include_usage
        self._keep_alive = keep_alive
        self._deadline = deadline
        self._convert = convert
        self._on_error = on_error
        self._next: asyncio.Task[Item] | None = None
        self._held: dict[str, Any] | None = None
        self.routed: Routed | None = None
        self.standing: Standing | None = None

    async def start(self) -> None:
        """Raises `ChatError` if the request is refused. Waits for the first chunk, which says that it is
        accepted, but never longer than a keep-alive: then the headers must go."""
        until = time.monotonic() + self._keep_alive
        item = await self._wait(until - time.monotonic())
        while isinstance(item, Standing | Routed):
            self._note(item)
            item = await self._wait(max(0.0, until - time.monotonic()))

    def _note(self, item: Standing | Routed) -> None:
        self._take()
        if isinstance(item, Routed):
            self.routed = item
        else:
            self.standing = item

    async def frames(self) -> AsyncIterator[bytes]:
        """All frames, to `[DONE]` or an error event."""
        try:
            while True:
                try:
                    item = await self._wait(self._keep_alive)
                except StopAsyncIteration:
                    break
                if item is None:
                    yield KEEP_ALIVE
                    continue
                if isinstance(item, Standing | Routed):
                    self._note(item)
                    continue
                self._take()
                for data in self._events(item):
                    yield frame(data)
            if self._held is not None:
                self._held["metadata"] = metadata(self.routed, self._context)
                yield frame(self._held)
            yield DONE
        except ChatError as error:
            self._on_error(error)
            yield frame(error.body())
        except Exception as error:
            logger.exception("the answer to %s broke", self._context.request_id)
            broken = ChatError(f"An internal error: {type(error).__name__}.", code="internal_error")
            self._on_error(broken)
            yield frame(broken.body())
        finally:
            await self.close()

    def _events(self, chunk: ChatCompletionChunk) -> list[dict[str, Any]]:
        """The chunk as events; one that may be the last is held back, because it carries the metadata."""
        if not chunk.choices and not self._include_usage:
            return []
        data = self._convert(chunk)
        if data is None:
            return []
        ready = [self._held] if self._held is not None else []
        self._held = None
        if not chunk.choices or any(choice.finish_reason for choice in chunk.choices):
            self._held = data
        else:
            ready.append(data)
        return ready

    async def _wait(self, seconds: float) -> Item | None:
        """The next item, left in place; None if it is not there in time."""
        if self._next is None:
            self._next = asyncio.ensure_future(_advance(self._items))
        left = self._deadline - time.monotonic()
        if not self._next.done():
            await asyncio.wait({self._next}, timeout=min(seconds, max(0.0, left)))
        if self._next.done():
            if isinstance(self._next.exception(), _Exhausted):
                raise StopAsyncIteration
            return self._next.result()
        if left <= 0:
            raise timed_out()
        return None

    def _take(self) -> None:
        self._next = None

    async def close(self) -> None:
        """Stop the answer, if it is still running: its slot is freed."""
        if self._next is not None and not self._next.done():
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        closer: Callable[[], Awaitable[None]] | None = getattr(self._items, "aclose", None)
        if closer is not None:
            await closer()


class AnswerResponse(StreamingResponse):
    """Sends an `AnswerStream` and closes it, whatever ends the sending: left to the garbage collector, a
    client that went away would hold its slot."""

    def __init__(self, stream: AnswerStream, headers: dict[str, str]) -> None:
        super().__init__(stream.frames(), media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.close()


class _Exhausted(Exception):
    """A future cannot hold StopAsyncIteration."""


async def _advance(items: AsyncIterator[Item]) -> Item:
    try:
        return await anext(items)
    except StopAsyncIteration:
        raise _Exhausted from None


def timed_out() -> ChatError:
    """A 504: the answer took longer than a request may."""
    return ChatError("The answer took longer than a request may take here.", status=504, code="request_timeout")
