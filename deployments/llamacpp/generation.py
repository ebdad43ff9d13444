"""What goes into the engine and what comes out: a `Generation` in, a `Stream` of events back.

`Running` is what lies between: the state of one request, which the engine's thread owns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from deployments.llamacpp.prefix import Slot, Tokens
from deployments.llamacpp.sampling import Sampler, SamplingOptions, TokenLogprob
from deployments.llamacpp.text import TextAssembler

FinishReason = Literal["stop", "length"]


class EngineFull(Exception):
    """The queue is at its limit, or too long for one that must begin soon. `retry_after`: seconds until a place is
    likely."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class EngineFailed(Exception):
    """The engine could not compute this request, or its thread has died."""


@dataclass(frozen=True)
class Piece:
    """What one step added to an answer. `text` may be empty (half a character, a held stop string)."""

    text: str
    logprob: TokenLogprob | None = None


@dataclass(frozen=True)
class Finished:
    """The end of an answer. `prompt_reused`: prompt tokens that were in the KV cache already."""

    reason: FinishReason
    prompt_tokens: int
    prompt_reused: int
    completion_tokens: int


Event = Piece | Finished | EngineFailed | EngineFull


@dataclass(frozen=True)
class ThinkingBudget:
    """Ends a chain of thought that grows too long: once `tokens` were generated without the token `end`,
    `closing` (token ids that hold `end`) is written instead of sampling (the way Qwen's model cards
    describe)."""

    tokens: int
    end: int
    closing: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """One request to the engine."""

    prompt: list[int]
    max_tokens: int
    sampling: SamplingOptions
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    adapter: str | None = None
    tenant: str = ""
    """Whose request this is, for fairness between tenants."""
    thinking: ThinkingBudget | None = None
    begin_by: float | None = None
    """When its first token must have come (`time.monotonic`); one that cannot is refused."""
    request_id: str = ""
    """For the log."""
    taken_up: Callable[[], None] | None = None
    """Called by the engine's thread when the request waits no longer."""


class Stream:
    """One request's events. Each look yields what has happened since the last, the last one with
    `Finished` at its end. Closing it early (a client that went away) frees the slot before the next
    step. Raises `EngineFailed` where computing fails, `EngineFull` where its turn did not come in time."""

    def __init__(self, events: asyncio.Queue[Event], withdraw: Callable[[], None]) -> None:
        self._events = events
        self._withdraw = withdraw
        self._over = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> list[Piece | Finished]:
        if self._over:
            raise StopAsyncIteration
        news: list[Piece | Finished] = []
        event: Event | None = await self._events.get()
        while event is not None:
            if isinstance(event, EngineFailed | EngineFull):
                self._over = True
                raise event
            news.append(event)
            self._over = isinstance(event, Finished)
            event = None if self._events.empty() else self._events.get_nowait()
        return news

    async def aclose(self) -> None:
        if not self._over:
            self._over = True
            self._withdraw()


@dataclass(eq=False)
class Running:
    """A request on its way through the engine; the thread owns all of it but `events`."""

    generation: Generation
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event]
    buffer: Tokens
    """Prompt and answer so far, in the first `length` places."""
    length: int
    sampler: Sampler | None = None
    assembler: TextAssembler = field(default_factory=TextAssembler)
    slot: Slot | None = None
    n_cached: int = 0
    n_reused: int = 0
    completion: int = 0
    cancelled: bool = False
    admitted: int = 0
    started: float = 0.0
    forced: deque[int] = field(default_factory=deque)
    thinking: bool = True

    @property
    def tokens(self) -> Tokens:
        return self.buffer[: self.length]

    @property
    def reading(self) -> bool:
        """Whether more than the newest token is still to be computed."""
        return self.length - self.n_cached > 1 or self.completion == 0

    def is_late(self, now: float) -> bool:
        """Whether it waits for a turn that comes too late. (One that was put back has begun.)"""
        begin_by = self.generation.begin_by
        return begin_by is not None and now > begin_by and self.completion == 0

    def append(self, token: int) -> None:
        self.buffer[self.length] = token
        self.length += 1
