"""The step loop: continuous batching of many requests over one llama.cpp context.

Each step puts the next token of every running sequence and a chunk of the prompts that are still
being read into one batch, decodes it, and samples. The loop runs in a thread of its own (llama.cpp
and numpy release the GIL), so the replica's event loop stays free; events reach it once a step.

Knows nothing of chat, templates, tools or HTTP: token ids go in, text pieces come out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.llamacpp.admission import FairQueue
from deployments.llamacpp.context import Context, ContextOptions, Decoded, DecodeError, Span
from deployments.llamacpp.generation import (
    EngineFailed,
    EngineFull,
    Event,
    Finished,
    FinishReason,
    Generation,
    Piece,
    Running,
    Stream,
)
from deployments.llamacpp.prefix import Slot, place, worth_waiting
from deployments.llamacpp.sampling import Sampler, token_logprob
from deployments.llamacpp.text import TextAssembler
from deployments.llamacpp.turns import Turns
from deployments.llamacpp.weights import Weights

logger = logging.getLogger("ray.serve.llamacpp")

T = TypeVar("T")

WORTH_WAITING_TOKENS = 64
"""A request waits for a running one that is computing at least this many tokens of its prompt."""


@dataclass(frozen=True)
class EngineOptions:
    """Sizes are in tokens."""

    context: int = 4096
    """Most tokens of one request, prompt and answer together."""
    kv_tokens: int = 8192
    """Cells of the KV pool that all requests share."""
    parallel: int = 4
    """Requests that run at once; as many again keep their prefixes cached."""
    max_queue: int = 64
    """Requests that may wait; one more is refused."""
    n_batch: int = 512
    prefill_chunk: int = 128
    """Prompt tokens read in one step while other requests are being answered: bounds how long a long
    prompt can hold up their next token."""
    threads: int = 1
    kv_dtype: Literal["f16", "q8_0"] = "f16"


@dataclass
class EngineStats:
    """Counters since the start."""

    prompt_tokens: int = 0
    prompt_reused: int = 0
    completion_tokens: int = 0
    steps: int = 0
    cancelled: int = 0
    preempted: int = 0
    shed: int = 0
    """Whose turn did not come in time."""

    def plus(self, other: EngineStats) -> EngineStats:
        return EngineStats(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


class Engine:
    """Continuous batching over one context. Create it in any thread; `close()` joins its own."""

    def __init__(self, weights: Weights, options: EngineOptions) -> None:
        self.weights = weights
        self.options = options
        n_slots = 2 * options.parallel
        self.context = Context(
            weights,
            ContextOptions(
                n_ctx=max(options.kv_tokens, options.context),
                n_sequences=n_slots,
                n_batch=options.n_batch,
                threads=options.threads,
                kv_dtype=options.kv_dtype,
            ),
        )
        self.stats = EngineStats()
        self._slots = [Slot(i, np.empty(0, np.int32)) for i in range(n_slots)]
        self._running: list[Running] = []
        self._waiting: FairQueue[Running] = FairQueue()
        self._inbox: list[Running] = []
        self._errands: list[Callable[[bool], None]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._clock = itertools.count(1)
        self._turns = Turns(options.parallel)
        self._outbox: list[tuple[Running, Event]] = []
        self._thread = threading.Thread(target=self._run, name="llamacpp-steps", daemon=True)
        self._thread.start()

    # -- the event loop's side ---------------------------------------------------------------------

    def submit(self, generation: Generation) -> Stream:
        """Queue one request; call it on the event loop that will iterate. Raises `EngineFull` if the
        queue is at its limit, `EngineFailed` if the engine has stopped."""
        length = len(generation.prompt)
        buffer = np.empty(min(length + generation.max_tokens, self.options.context) + 1, np.int32)
        buffer[:length] = generation.prompt
        running = Running(
            generation,
            asyncio.get_running_loop(),
            asyncio.Queue(),
            buffer,
            length,
            assembler=TextAssembler(generation.stop),
        )
        with self._wake:
            self._check_alive()
            if self.queued >= self.options.max_queue + self._free_places() or self._comes_too_late(generation):
                raise EngineFull(self._expected_wait())
            self._inbox.append(running)
            self._turns.comes(generation.tenant)
            self._wake.notify()
        return Stream(running.events, lambda: self._withdraw(running))

    async def do(self, work: Callable[[Context], T]) -> T:
        """Have something done with the context, between two steps: it belongs to the thread. Raises what `work`
        raises, or `EngineFailed`."""
        done: Future[T] = Future()

        def errand(alive: bool) -> None:
            if not done.set_running_or_notify_cancel():
                return  # Nobody waits for it any more.
            try:
                if not alive:
                    raise EngineFailed("the engine has stopped")
                done.set_result(work(self.context))
            except Exception as error:
                done.set_exception(error)

        with self._wake:
            self._check_alive()
            self._errands.append(errand)
            self._wake.notify()
        return await asyncio.wrap_future(done)

    def _withdraw(self, running: Running) -> None:
        with self._wake:
            running.cancelled = True
            self._wake.notify()

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting) + len(self._inbox)

    def _free_places(self) -> int:
        return max(0, self.options.parallel - len(self._running))

    def _expected_wait(self) -> float:
        return max(1.0, self._turns.wait(self.queued))

    def _comes_too_late(self, generation: Generation) -> bool:
        """Whether its turn is likely to come when nobody waits for it any more."""
        if generation.begin_by is None or self.queued < self._free_places():
            return False
        return time.monotonic() + self._turns.wait_of(generation.tenant) > generation.begin_by

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def _check_alive(self) -> None:
        if not self.alive:
            raise EngineFailed("the engine has stopped")

    def close(self) -> None:
        """Stop the thread after the current step, fail what is running, free the context."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self.context.close()

    # -- the thread's side -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._next_round():
                try:
                    self._step()
                except DecodeError as error:
                    self._fail_all(EngineFailed(str(error)))
                self._deliver()
        except Exception as error:
            answering = ", ".join(running.generation.request_id for running in self._running)
            logger.exception("the step loop died while it answered %s", answering or "nobody")
            self._fail_all(EngineFailed(f"the engine's step loop died: {error}"))
        finally:
            with self._wake:
                self._closing = True
                self._waiting_to_inbox()
                errands, self._errands = self._errands, []
            for errand in errands:
                errand(False)
            for running in self._inbox:
                self._emit(running, EngineFailed("the engine has stopped"))
            self._fail_all(EngineFailed("the engine has stopped"))
            self._deliver()

    def _waiting_to_inbox(self) -> None:
        self._inbox.extend(self._waiting)
        self._waiting = FairQueue()

    def _next_round(self) -> bool:
        """Take in what arrived and who left, admit who fits; sleep while there is nothing to do."""
        while True:
            with self._wake:
                while not self._has_work():
                    self._wake.wait()
                if self._closing:
                    return False
                arrived, self._inbox = self._inbox, []
                errands, self._errands = self._errands, []
                now = time.monotonic()
                for running in arrived:
                    due = now + self._turns.expected(running.generation)
                    self._waiting.push(running.generation.tenant, running, due)
                for running in [r for r in self._waiting if r.cancelled or r.is_late(now)]:
                    self._waiting.remove(running)
                    self._turns.goes(running.generation.tenant)
                    self._release(running)
                    if running.cancelled:
                        self.stats.cancelled += 1
                    else:
                        self.stats.shed += 1
                        self._emit(running, EngineFull(self._expected_wait()))
            for errand in errands:
                errand(True)
            for running in [r for r in self._running if r.cancelled]:
                self._leave(running)
                self.stats.cancelled += 1
            self._admit()
            self._deliver()
            if self._running:
                return True

    def _has_work(self) -> bool:
        return bool(self._inbox or self._errands or self._running or len(self._waiting) or self._closing)

    def _admit(self) -> None:
        for tenant, running in self._waiting.heads():
            if len(self._running) >= self.options.parallel:
                return
            adapter = running.generation.adapter
            placement = place(running.tokens, adapter, self._slots)
            if placement is None or not self._fits(running, placement.reused):
                return
            computing = [(r.tokens, r.generation.adapter) for r in self._running if r.reading]
            if worth_waiting(running.tokens, adapter, computing, placement.reused, WORTH_WAITING_TOKENS):
                continue
            self._waiting.pop(tenant)
            with self._wake:
                self._turns.goes(tenant)
            try:
                running.sampler = running.sampler or self._make_sampler(running)
            except ValueError as error:
                self._emit(running, EngineFailed(str(error)))
                continue
            self._start(running, placement.slot, placement.source, placement.reused)

    def _fits(self, running: Running, reused: int) -> bool:
        """Whether the KV pool likely holds one more: a guess (shared cells are counted once), because a
        wrong one costs a preemption, not an answer."""
        if not self._running:
            return True
        lengths = [(r.length, r.n_reused) for r in self._running] + [(running.length, reused)]
        own = sum(length - shared for length, shared in lengths)
        headroom = self.options.parallel
        return own + max(shared for _, shared in lengths) + headroom <= self.context.n_ctx

    def _make_sampler(self, running: Running) -> Sampler:
        sampler = Sampler(self.weights, running.generation.sampling)
        sampler.accept_prompt(running.generation.prompt)
        return sampler

    def _start(self, running: Running, slot: Slot, source: Slot, reused: int) -> None:
        if source is not slot:
            self.context.forget(slot.id)
            if reused:
                self.context.share(source.id, slot.id, reused)
        elif not self.context.forget(slot.id, reused):
            self.context.forget(slot.id)
            reused = 0
        slot.tokens = source.tokens[:reused]
        slot.adapter = running.generation.adapter
        slot.busy = True
        running.slot, running.n_cached = slot, reused
        if not running.completion:
            running.n_reused = reused
        running.admitted = next(self._clock)
        if not running.started and running.generation.taken_up is not None:
            running.generation.taken_up()
        running.started = running.started or time.monotonic()
        self._running.append(running)

    def _step(self) -> None:
        """One batch: every running sequence's next token, then prompt chunks while there is room."""
        adapter = min(self._running, key=lambda r: r.admitted).generation.adapter
        group = [r for r in self._running if r.generation.adapter == adapter]
        if len(group) < len(self._running):
            # Another adapter waits: give it the next step.
            for running in group:
                running.admitted = next(self._clock)
        self.context.use_adapter(adapter)
        spans, fed = self._compose(group)
        while spans and self.context.decode(spans) is Decoded.NO_ROOM:
            if not self._make_room(group):
                return
            spans, fed = self._compose(group)
        self.stats.steps += 1
        row = -1
        for running, span in zip(fed, spans, strict=True):
            row += len(span.tokens)
            assert running.slot is not None
            running.n_cached += len(span.tokens)
            running.slot.tokens = running.buffer[: running.n_cached]
            running.slot.last_used = next(self._clock)
            if span.wants_logits:
                self._sample(running, row)

    def _compose(self, group: list[Running]) -> tuple[list[Span], list[Running]]:
        answering = [r for r in group if not r.reading]
        reading = sorted((r for r in group if r.reading), key=lambda r: r.admitted)
        room = self.options.n_batch - len(answering)
        if answering:
            room = min(room, self.options.prefill_chunk)
        spans: list[Span] = []
        fed: list[Running] = []
        for running in [*answering, *reading]:
            take = running.length - running.n_cached
            if running.reading:
                take = min(take, room)
                room -= take
            if take == 0:
                break
            end = running.n_cached + take
            assert running.slot is not None
            spans.append(
                Span(
                    running.buffer[running.n_cached : end],
                    running.n_cached,
                    running.slot.id,
                    end == running.length,
                )
            )
            fed.append(running)
        return spans, fed

    def _make_room(self, group: list[Running]) -> bool:
        """Free KV cells: first the oldest idle prefix, then the youngest running request, which goes back
        to the head of the queue. False if the one request left fills the pool by itself: it ends."""
        idle = [slot for slot in self._slots if not slot.busy and len(slot.tokens)]
        if idle:
            slot = min(idle, key=lambda s: s.last_used)
            self.context.forget(slot.id)
            slot.tokens = slot.tokens[:0]
            return True
        youngest = max(self._running, key=lambda r: r.admitted)
        if len(self._running) == 1:
            self._finish(youngest, "length")
            return False
        self.stats.preempted += 1
        self._vacate(youngest, keep=False)
        if youngest in group:
            group.remove(youngest)
        self._waiting.push_front(youngest.generation.tenant, youngest)
        with self._wake:
            self._turns.comes(youngest.generation.tenant)
        return True

    def _sample(self, running: Running, row: int) -> None:
        generation = running.generation
        if running.completion == 0:
            self.stats.prompt_tokens += len(generation.prompt)
            self.stats.prompt_reused += running.n_reused
        if generation.max_tokens == 0:
            self._finish(running, "length")
            return
        logits = self.context.logits(row)
        token = self._next_token(running, logits)
        running.completion += 1
        self.stats.completion_tokens += 1
        if self.weights.ends_generation(token):
            self._finish(running, "stop")
            return
        logprob = token_logprob(logits, token, generation.top_logprobs) if generation.logprobs else None
        text = running.assembler.push(self.weights.piece(token))
        running.append(token)
        if text or logprob:
            self._emit(running, Piece(text, logprob))
        if running.assembler.stopped:
            self._finish(running, "stop")
        elif running.completion >= generation.max_tokens or running.length >= self.options.context:
            self._finish(running, "length")

    def _next_token(self, running: Running, logits: npt.NDArray[np.float32]) -> int:
        assert running.sampler is not None
        budget = running.generation.thinking
        if budget and running.thinking and running.completion == budget.tokens:
            running.forced.extend(budget.closing)
        token = running.forced.popleft() if running.forced else running.sampler.sample(logits)
        if budget and token == budget.end:
            running.thinking = False
        return token

    def _finish(self, running: Running, reason: FinishReason) -> None:
        rest = running.assembler.finish()
        if rest:
            self._emit(running, Piece(rest))
        self._emit(
            running,
            Finished(reason, len(running.generation.prompt), running.n_reused, running.completion),
        )
        took = time.monotonic() - running.started
        self._turns.took(took, running.completion)
        self._leave(running)

    def _leave(self, running: Running) -> None:
        """Take a request out of the batch; its cells stay as a reusable prefix."""
        self._vacate(running, keep=True)
        self._release(running)

    def _vacate(self, running: Running, *, keep: bool) -> None:
        slot = running.slot
        assert slot is not None
        slot.busy = False
        if not keep:
            self.context.forget(slot.id)
            slot.tokens = slot.tokens[:0]
        running.slot, running.n_cached = None, 0
        self._running.remove(running)

    @staticmethod
    def _release(running: Running) -> None:
        if running.sampler is not None:
            running.sampler.close()
            running.sampler = None

    def _fail_all(self, error: EngineFailed) -> None:
        for running in list(self._running):
            self._emit(running, error)
            self._leave(running)
        self.context.forget_all()
        for slot in self._slots:
            slot.tokens = slot.tokens[:0]

    # -- events ------------------------------------------------------------------------------------

    def _emit(self, running: Running, event: Event) -> None:
        self._outbox.append((running, event))

    def _deliver(self) -> None:
        """Hand this step's events to their event loops: one wake-up a loop and step."""
        outbox, self._outbox = self._outbox, []
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Running, Event]]] = {}
        for running, event in outbox:
            by_loop.setdefault(running.loop, []).append((running, event))
        for loop, events in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, events)
            except RuntimeError:  # that event loop has closed; nobody is waiting any more
                logger.debug("dropped %d events of a closed loop", len(events))


def _put_all(events: list[tuple[Running, Event]]) -> None:
    for running, event in events:
        running.events.put_nowait(event)
