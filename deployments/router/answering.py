"""One answer from as many variants as it takes: nothing reaches the client before the commit point, so that until
then a larger variant can take over from an unsure one, and another from one that fails, unseen. Pure asyncio.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from configs.escalation import Cause, EscalationRules, FallbackRules
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatError, ChatRequest, ContinuedRequest
from deployments.router.confidence import Confidence
from deployments.router.decision import Attempt
from deployments.router.escalation import Judge
from deployments.router.failures import SAID, Failed, has_content, watched
from deployments.router.self_check import self_check, stands

Chunks = list[ChatCompletionChunk]
Ask = Callable[[str, ChatRequest], AsyncGenerator[Chunks, None]]

ESCALATED, ANSWERED, CORRECTED, STOPPED = "escalated", "answered", "corrected", "stopped"
CORRECTION = "\n\n---\n**Correction** (by {variant}, because the answer above turned out unsure):\n\n"
HINT = "\n\n[Stopped: {variant} has become unsure of this. Ask again with a larger model.]"
NEVER_AGAIN = 1_000_000
TOP_LOGPROBS = 2
"""Alternatives that the margin needs."""


@dataclass(frozen=True)
class Committed:
    """Whose answer the client gets, and what was tried before. Comes before its chunks, and again when that
    changes."""

    variant: str
    attempts: tuple[Attempt, ...]
    why: str | None = None
    """Why it is not the variant that was decided for."""


@dataclass(frozen=True)
class Plan:
    """How one request may be answered. `judge`: by variant, None where its confidence means nothing. `larger`: who
    takes over from an unsure one. `instead`: who is asked after a failure, given how often each was asked.
    `failed`: is told of each failure."""

    request: ChatRequest
    ask: Ask
    judge: Callable[[str], Judge | None]
    larger: Callable[[str], str | None]
    instead: Callable[[Cause, str, dict[str, int]], Awaitable[str | None]]
    failed: Callable[[str, Cause], None]
    fallback: FallbackRules
    escalation: EscalationRules
    continues: Callable[[str], bool]
    """Whether a variant can go on with an answer that another has begun."""
    prompt_tokens: int = 0
    """Roughly: for an answer that is stopped before its variant has said how many it read."""


@dataclass
class _Asked:
    """A variant that answers now."""

    variant: str
    judge: Judge | None
    started: float = field(default_factory=time.monotonic)
    confidence: Confidence = field(default_factory=Confidence)
    held: Chunks = field(default_factory=list)
    pieces: int = 0
    sure: float | None = None
    committed: bool = False
    checked: int = 0
    """Tokens that asking it about its own answer took."""
    larger: str | None = None
    """Who takes over, once that is decided."""

    def see(self, chunks: Chunks) -> None:
        self.confidence.see(chunks)
        self.pieces += sum(map(has_content, chunks))

    def attempt(self, outcome: str) -> Attempt:
        counted = len(self.confidence.answer) + len(self.confidence.thought)
        ms = round((time.monotonic() - self.started) * 1e3, 1)
        sure = None if self.sure is None else round(self.sure, 4)
        return Attempt(self.variant, outcome, counted or self.pieces, ms, sure, self.heard, self.checked)

    @property
    def heard(self) -> bool:
        """Whether the client has some of its answer, and not only that there will be one."""
        return self.committed and self.pieces > 0


class Answering:
    """Runs a `Plan`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began = time.monotonic()
        self._attempts: list[Attempt] = []
        self._tried: dict[str, int] = {}
        self._escalations = 0
        self._why: str | None = None
        self._said: list[str] = []
        self._sent = self._begun_before = False
        self._open = False
        """Whether the client has a part of an answer that someone must go on with: what was `_said`."""
        self._plain = True
        """Whether nothing but text was sent: calls and thoughts cannot be gone on with."""
        self._spoken: list[Attempt] = []
        """Who said it, before the one who speaks now."""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Who was asked in turn, as far as it has come."""
        return tuple(self._attempts)

    @property
    def one_voice(self) -> bool:
        """Whether what was sent is one variant's whole answer, and that the one that was decided for or, where
        that was unsure, the one that it was left to."""
        return all(attempt.outcome == ESCALATED for attempt in self._attempts[:-1]) and bool(
            self._attempts and self._attempts[-1].outcome == ANSWERED
        )

    async def run(
        self, variant: str, steps: AsyncGenerator[Chunks, None] | None = None
    ) -> AsyncGenerator[Committed | Chunks, None]:
        """The answer, beginning with `variant`; `steps`: its answer, where it was asked already. Raises
        `ChatError`."""
        next_up: str | None = variant
        while next_up is not None:
            asked = _Asked(next_up, self._judge(next_up))
            self._tried[next_up] = self._tried.get(next_up, 0) + 1
            steps = steps or self._plan.ask(next_up, self._request())
            try:
                async with (
                    aclosing(watched(steps, next_up, self._plan.fallback)) as seen,
                    aclosing(self._one(asked, seen)) as items,
                ):
                    async for item in items:
                        yield item
                next_up = self._larger(asked) if self._attempts[-1].outcome in (ESCALATED, CORRECTED) else None
            except Failed as failure:
                self._ends(asked, failure.cause)
                self._plan.failed(asked.variant, failure.cause)
                if self._open and self._plan.fallback.after_commit == "error":
                    raise failure.error from failure
                next_up = await self._after(failure, asked)
            steps = None

    def _ends(self, asked: _Asked, outcome: str) -> None:
        self._attempts.append(asked.attempt(outcome))
        if asked.heard:
            self._spoken.append(self._attempts[-1])

    def _judge(self, variant: str) -> Judge | None:
        """Nobody is judged who has no larger one behind it, or who goes on with what the client has already."""
        may = self._escalations < self._plan.escalation.most_steps and not self._open
        return self._plan.judge(variant) if may and self._plan.larger(variant) is not None else None

    def _request(self) -> ChatRequest:
        request = self._plan.request
        if not self._open:
            return request
        fields = request.model_dump(exclude_unset=True, exclude={"max_tokens", "max_completion_tokens"})
        left = request.token_limit
        if left is not None:
            fields["max_tokens"] = max(1, left - sum(attempt.tokens for attempt in self._spoken))
        return ContinuedRequest.model_validate({**fields, "begun": "".join(self._said)})

    def _larger(self, asked: _Asked) -> str | None:
        self._escalations += 1
        self._why = f"{asked.variant} was unsure, {asked.larger} takes over"
        return asked.larger

    async def _after(self, failure: Failed, asked: _Asked) -> str | None:
        """Who goes on. Raises the failure's error where nobody does."""
        late = time.monotonic() - self._began > self._plan.fallback.deadline_seconds
        tried = dict(self._tried)
        found = None if late else await self._plan.instead(failure.cause, asked.variant, tried)
        if self._open and not self._plain:
            raise failure.error from failure
        while found is not None and self._open and not self._plan.continues(found):
            tried[found] = NEVER_AGAIN
            found = await self._plan.instead(failure.cause, asked.variant, tried)
        if found is None and not late:
            found = next(
                (
                    attempt.variant
                    for attempt in reversed(self._attempts)
                    if attempt.outcome == ESCALATED and not self._tried.get(attempt.variant)
                ),
                None,
            )
            # Its answer was in doubt, and is better than none: it is not judged again.
            self._escalations = self._plan.escalation.most_steps
        if found is None:
            raise failure.error from failure
        goes_on = " with the rest" if self._open else ""
        self._why = f"{asked.variant} {SAID[failure.cause]}, {found} answers{goes_on}"
        return found

    async def _one(
        self, asked: _Asked, steps: AsyncGenerator[Chunks, None]
    ) -> AsyncGenerator[Committed | Chunks, None]:
        """One variant's answer, until it ends or a larger one should take over (its attempt says which)."""
        self._begun_before = self._sent
        corrects = False
        tail: Chunks = []
        async for chunks in steps:
            asked.see(chunks)
            if not asked.committed:
                asked.held += chunks
                verdict = self._verdict(asked, chunks)
                if verdict == "wait":
                    continue
                if verdict != ESCALATED and self._checks(asked) and not await self._stands(asked):
                    asked.larger = self._plan.larger(asked.variant)
                    verdict = ESCALATED if asked.larger is not None else verdict
                if verdict == ESCALATED:
                    self._ends(asked, ESCALATED)
                    # It has not failed: should all others fail, its answer is better than none.
                    self._tried[asked.variant] -= 1
                    return
                asked.committed = True
                yield Committed(asked.variant, (*self._attempts, asked.attempt(ANSWERED)), self._why)
                chunks, asked.held = asked.held, []
            if asked.judge is not None and self._plan.request.stream:
                collapse = self._collapsed(asked, chunks)
                if collapse == STOPPED:
                    yield self._sends(self._stopping(asked, chunks))
                    self._ends(asked, STOPPED)
                    return
                corrects = corrects or collapse == CORRECTED
            if corrects:
                # The end is the larger one's to say.
                tail += [chunk for chunk in chunks if _is_end(chunk)]
                chunks = [chunk for chunk in chunks if not _is_end(chunk)]
            if chunks:
                yield self._sends(chunks)
        if corrects:
            self._ends(asked, CORRECTED)
            yield self._sends([_like(tail[0], CORRECTION.format(variant=asked.larger))])
            # It is asked the question itself, not to go on with what is doubtful.
            self._said, self._open = [], False
            return
        self._ends(asked, ANSWERED)

    def _verdict(self, asked: _Asked, chunks: Chunks) -> str:
        ended = any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        if asked.judge is None:
            # A stream begins as soon as the variant has accepted the request, long before its first token; until
            # there is one, another can still take its place. Who does not stream has nothing until the end.
            return "accept" if ended or self._plan.request.stream else "wait"
        verdict, sure = asked.judge.verdict(asked.confidence, whole=ended, streams=self._plan.request.stream)
        asked.sure = asked.sure if sure is None else sure
        if verdict == "escalate":
            asked.larger = self._plan.larger(asked.variant)
            # Where nobody is left to take over, an unsure answer is better than none.
            return ESCALATED if asked.larger is not None else "accept"
        # Who waits for the whole answer is given the judgement of the whole.
        return "wait" if verdict == "accept" and not ended and not self._plan.request.stream else verdict

    def _checks(self, asked: _Asked) -> bool:
        """Whether the variant is asked what it thinks of its whole answer."""
        wanted = self._plan.escalation.self_check and not self._plan.request.stream
        return wanted and asked.judge is not None

    async def _stands(self, asked: _Asked) -> bool:
        """Whether the variant stands by its answer; one that cannot be asked does."""
        answer = "".join(choice.delta.content or "" for chunk in asked.held for choice in chunk.choices)
        said: Chunks = []
        steps = self._plan.ask(asked.variant, self_check(self._plan.request, answer))
        try:
            async with aclosing(watched(steps, asked.variant, self._plan.fallback)) as seen:
                async for chunks in seen:
                    said += chunks
        except (Failed, ChatError):
            return True
        finally:
            asked.checked = next((chunk.usage.total_tokens for chunk in said if chunk.usage), 0)
        return stands(said)

    def _collapsed(self, asked: _Asked, chunks: Chunks) -> str | None:
        """Whether an answer that streams has lost its confidence, by the owner's policy."""
        assert asked.judge is not None
        rules = self._plan.escalation
        ended = any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        if rules.late == "keep" or not (ended or len(asked.confidence.answer) >= 2 * asked.judge.commit):
            return None
        signals = asked.confidence.answer.signals()
        if signals is None:
            return None
        judge = asked.judge
        sure = judge.calibrated.probability(signals, judge.family, judge.prior, whole=ended)
        if sure >= rules.late_below or (rules.late == "correct" and not ended):
            return None
        asked.sure = sure
        if rules.late == "stop":
            return STOPPED
        asked.larger = self._plan.larger(asked.variant)
        return CORRECTED if asked.larger is not None else None

    def _stopping(self, asked: _Asked, chunks: Chunks) -> Chunks:
        """What is there, a hint, and an end."""
        said = [chunk for chunk in chunks if not _is_end(chunk)]
        hint = _like(chunks[0], HINT.format(variant=asked.variant))
        end = _like(chunks[0], None, finish=True)
        usage = token_usage(self._plan.prompt_tokens, len(asked.confidence.answer))
        return [*said, hint, end, chunks[0].model_copy(update={"choices": [], "usage": usage})]

    def _sends(self, chunks: Chunks) -> Chunks:
        """What the client gets of it: of an answer that goes on, no second beginning; logprobs where it asked."""
        sent = []
        for chunk in chunks:
            if self._begun_before and _only_begins(chunk):
                continue
            if chunk.usage is not None and self._spoken:
                chunk = chunk.model_copy(update={"usage": _added(chunk.usage, self._spoken)})
            kept = as_asked(chunk, self._plan.request)
            if kept is not None:
                sent.append(kept)
                self._sent = True
                self._open = self._open or has_content(kept)
                self._plain = self._plain and not any(map(_is_more_than_text, kept.choices))
                self._said += [choice.delta.content or "" for choice in kept.choices if choice.index == 0]
        return sent


def with_logprobs(request: ChatRequest) -> ChatRequest:
    """The request as a variant is asked whose confidence is watched."""
    wanted = max(TOP_LOGPROBS, request.top_logprobs or 0)
    return request.model_copy(update={"logprobs": True, "top_logprobs": wanted})


def as_asked(chunk: ChatCompletionChunk, request: ChatRequest) -> ChatCompletionChunk | None:
    """A chunk with the logprobs that the client has asked for; None for one that held nothing else."""
    if request.logprobs and (request.top_logprobs or 0) >= TOP_LOGPROBS:
        return chunk
    if all(choice.logprobs is None for choice in chunk.choices):
        return chunk
    copy = chunk.model_copy(deep=True)
    for choice in copy.choices:
        if choice.logprobs is None:
            continue
        if request.logprobs:
            for token in choice.logprobs.content or []:
                token.top_logprobs = token.top_logprobs[: request.top_logprobs or 0]
        else:
            choice.logprobs = None
    said = any(choice.delta.role or choice.finish_reason for choice in copy.choices) or has_content(copy)
    return copy if said or request.logprobs else None


def _only_begins(chunk: ChatCompletionChunk) -> bool:
    """Whether it says nothing but who speaks."""
    begins = any(choice.delta.role for choice in chunk.choices)
    return begins and not has_content(chunk) and not _is_end(chunk)


def _is_end(chunk: ChatCompletionChunk) -> bool:
    return not chunk.choices or any(choice.finish_reason for choice in chunk.choices)


def _is_more_than_text(choice: Choice) -> bool:
    return bool(choice.delta.tool_calls or getattr(choice.delta, "reasoning_content", None))


def _like(chunk: ChatCompletionChunk, text: str | None, *, finish: bool = False) -> ChatCompletionChunk:
    """A chunk of the same answer, with this text, or its end."""
    builder = ChunkBuilder(chunk.id.removeprefix("chatcmpl-"), chunk.model)
    builder.created = chunk.created
    return builder.delta(0, content=text, finish_reason="stop" if finish else None)


def _added(usage: CompletionUsage, before: Iterable[Attempt]) -> CompletionUsage:
    """The usage of an answer of which others have said a part."""
    completion = usage.completion_tokens + sum(attempt.tokens for attempt in before)
    return token_usage(usage.prompt_tokens, completion, cached=_cached(usage))


def _cached(usage: CompletionUsage) -> int:
    details: Any = usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details else 0
