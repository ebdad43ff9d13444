"""A variant's side of residency: its gate, and Residency's words to it. Every engine's deployment is one.

It is in memory from the start (`keep: always`), or its gate is closed until Residency has it brought in.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from openai.types.chat import ChatCompletionChunk

from configs.catalog import WarmUp
from configs.profile import ServedVariant
from deployments.chunks import fold
from deployments.contract import ChatError, ChatRequest, RequestContext, not_ready, queue_full
from deployments.residency.gate import Gate, NotReady
from deployments.tracing.attributes import answered


class WarmUpFailed(RuntimeError):
    """The model is loaded, and does not answer as it must."""


class Resident(ABC):
    """What Residency may ask of a variant. `_bring_in` and `_send_out` are the engine's."""

    def reside(
        self, name: str, served: ServedVariant, wake_seconds: float, ask: Callable[[], None] | None
    ) -> None:
        """Call it first, before anything is in memory. `ask` has this variant brought in."""
        self._name = name
        self._wake_seconds = wake_seconds
        self._ask = ask or (lambda: None)
        self._gate = Gate()
        self._most_waiting = served.parallel + served.max_queue
        self._state = "absent"
        self._broken = False
        self._pinned = False
        self._coming: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._taken_up: dict[str, float] = {}
        """Of requests that are traced: when the engine took them up (Unix time), where it says so."""

    @abstractmethod
    async def _bring_in(self) -> None:
        """Load the model, or wake it. The event loop stays free meanwhile."""

    @abstractmethod
    async def _send_out(self, asleep: bool) -> None:
        """Free the memory; `asleep`: keep what brings it back sooner."""

    @abstractmethod
    def _in_flight(self) -> dict[str, Any]:
        """What the engine says of itself: `active`, `waiting` (requests), tokens so far, `memory_mb`."""

    @abstractmethod
    def _answer(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The engine's answer, while the variant is in memory. Raises `ChatError`."""

    async def chat(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncIterator[list[ChatCompletionChunk]]:
        """The chat contract, in lists of what is there at once: fewer messages between processes."""
        # Closed with this generator, not when it is collected: a client that left must free its slot at once.
        with answered(self._name, request, context, self._taken_up) as own:
            async with self._passage(), aclosing(self._answer(request, own.within(context))) as steps:
                own.let_in()
                async for chunks in steps:
                    own.see(chunks)
                    yield chunks

    async def _warm_up(self, asked: WarmUp) -> None:
        """Ask it a question. Raises `WarmUpFailed` where what comes is no answer, or not the right one."""
        message = {"role": "user", "content": asked.question}
        request = ChatRequest(messages=[message], temperature=0, max_tokens=asked.max_tokens, logprobs=True)
        chunks: list[ChatCompletionChunk] = []
        try:
            async with aclosing(self._answer(request, RequestContext(f"warm-up-{self._name}"))) as steps:
                async for step in steps:
                    chunks += step
        except ChatError as error:
            raise WarmUpFailed(f"{self._name} failed its warm-up: {error.message}") from error
        choice = fold(chunks).choices[0]
        said = f"{(choice.message.model_extra or {}).get('reasoning_content') or ''}{choice.message.content or ''}"
        tokens = (choice.logprobs.content if choice.logprobs else None) or []
        if not said.strip() or not all(math.isfinite(token.logprob) for token in tokens):
            raise WarmUpFailed(f"{self._name} failed its warm-up: asked {asked.question!r}, it said {said!r}")
        if asked.expects is not None and asked.expects.lower() not in said.lower():
            raise WarmUpFailed(
                f"{self._name} failed its warm-up: asked {asked.question!r}, it said {said!r}, which does not "
                f"hold {asked.expects!r}"
            )

    def is_in(self) -> None:
        """It is in memory, and answers."""
        self._state = "awake"
        self._gate.open()

    @asynccontextmanager
    async def _passage(self) -> AsyncIterator[None]:
        """Inside while the variant is awake. Raises a 503 `ChatError` where it does not come in time, a 429 where
        too many wait already."""
        if not self._gate.is_open and self._gate.waiting >= self._most_waiting:
            raise queue_full(self._wake_seconds)
        try:
            async with self._gate.passage(self._wake_seconds, self._ask):
                yield
        except NotReady as error:
            raise not_ready(self._name, str(error)) from error

    async def load(self) -> None:
        """Residency's word: the memory is yours. Returns when the model answers.

        Goes on although the caller dies meanwhile: a load cannot be stopped half-way, and what it has loaded
        must not be lost sight of.
        """
        async with self._lock:
            if self._state != "awake":
                if self._coming is None:
                    self._coming = asyncio.create_task(self._bring_in())
                    self._coming.add_done_callback(self._came)
                await asyncio.shield(self._coming)
            self._gate.open()

    def _came(self, coming: asyncio.Task[None]) -> None:
        self._coming = None
        if not coming.cancelled() and coming.exception() is None:
            self.is_in()

    async def unload(self, asleep: bool = False) -> None:
        """Residency's word: leave. Takes nothing new, and returns when the last answer is out and the memory
        is free. Where the caller dies meanwhile, this stays, open as before."""
        async with self._lock:
            if self._coming is not None:
                await asyncio.shield(self._coming)
            try:
                await self._gate.drain()
            except asyncio.CancelledError:
                if self._state == "awake":
                    self._gate.open()
                raise
            await asyncio.shield(asyncio.create_task(self._leave(asleep)))

    async def _leave(self, asleep: bool) -> None:
        if self._state == "absent":
            return
        try:
            await self._send_out(asleep)
        except Exception:
            # It may hold its memory still, and nobody gets in any more: only a new replica is sure.
            self._broken = True
            raise
        self._state = "asleep" if asleep else "absent"

    async def check_health(self) -> None:
        """Serve restarts this when it raises."""
        if self._broken:
            raise RuntimeError(f"{self._name} could not leave memory")

    async def pin(self, pinned: bool) -> None:
        """Residency's word, which this remembers for it."""
        self._pinned = pinned

    async def fail(self, reason: str) -> None:
        """Residency's word: it cannot be loaded. Who waits is told."""
        self._gate.fail(reason)

    async def status(self) -> dict[str, Any]:
        """Live gauges: state, requests, tokens so far, resident memory (MiB)."""
        draining = self._state == "awake" and not self._gate.is_open
        engine = self._in_flight()
        return {
            "state": "loading" if self._coming is not None else "draining" if draining else self._state,
            **engine,
            "waiting": engine["waiting"] + self._gate.waiting,
            "at_the_gate": self._gate.waiting,
            "pinned": self._pinned,
            "asked": self._gate.passed + self._gate.waiting,
        }
