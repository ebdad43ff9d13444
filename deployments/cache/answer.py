"""What the cache keeps and what a lookup finds. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from configs.routing import Task
from deployments.chunks import ChunkBuilder, token_usage
from deployments.router.decision import CacheOutcome

TURN = ":turn"
"""How partitions of later turns of conversations end. What was checked of first questions says nothing of them,
nor they of these: they are judged by their own checks or not served."""


@dataclass(frozen=True)
class CachedAnswer:
    """A complete answer, enough to replay it as a stream or a body. `created`, `fresh_until`: seconds since 1970;
    what is no longer fresh may serve once more while it is asked for anew. `seconds`, `cost_usd`: what it took."""

    variant: str
    content: str
    reasoning: str | None
    prompt_tokens: int
    completion_tokens: int
    created: int
    seconds: float = 0.0
    cost_usd: float = 0.0
    fresh_until: float | None = None

    @property
    def stale(self) -> bool:
        return self.fresh_until is not None and time.time() > self.fresh_until

    @classmethod
    def of(cls, answer: ChatCompletion, seconds: float = 0.0, cost_usd: float = 0.0) -> CachedAnswer:
        message = answer.choices[0].message
        usage = answer.usage
        return cls(
            variant=answer.model,
            content=message.content or "",
            reasoning=getattr(message, "reasoning_content", None),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            created=int(time.time()),
            seconds=round(seconds, 3),
            cost_usd=cost_usd,
        )

    @classmethod
    def by_hand(cls, author: str, content: str) -> CachedAnswer:
        """An answer that no variant gave."""
        return cls(author, content, None, 0, 0, int(time.time()))

    def chunks(self, request_id: str) -> Iterator[ChatCompletionChunk]:
        """The same sequence of chunks as a fresh answer, the whole text in one."""
        builder = ChunkBuilder(request_id, self.variant)
        yield builder.delta(0, role="assistant", content="")
        if self.reasoning:
            yield builder.delta(0, reasoning=self.reasoning)
        yield builder.delta(0, content=self.content)
        yield builder.delta(0, finish_reason="stop")
        # Nothing was computed: all of the prompt counts as cached, as a provider's cache would report it.
        usage = token_usage(self.prompt_tokens, self.completion_tokens, cached=self.prompt_tokens)
        yield builder.usage(usage)


@dataclass(frozen=True)
class Near:
    """An entry that was found by its vector. `entry`: its id; `query`: the question that it answers; `distance`:
    cosine, 0 to 2; `group`: the entry whose answer was the first to say this."""

    entry: str
    query: str
    distance: float
    group: str


@dataclass(frozen=True)
class Lookup:
    """What the cache said, and what it needs to store the answer that a miss leads to."""

    outcome: CacheOutcome
    answer: CachedAnswer | None = None
    distance: float | None = None
    same: str | None = None
    """What all requests that are exactly this one have in common, whether or not the cache could be asked."""
    exact_key: str | None = None
    fingerprint: str | None = None
    query: str | None = None
    scope: str = ""
    """Whose entries may serve, and who may be served by what this leads to."""
    tag: str = ""
    """What the answer rests on, as the request says it."""
    turn: bool = False
    """Whether it is a later turn of a conversation."""
    epoch: str = "0"
    """Of the cache, when it had no answer."""
    kind: Task | None = None
    """What is asked for: it says how long an answer lives, and by what its neighbours are judged."""
    embedding: bytes | None = None
    """float32, little-endian; None where the request is not for semantic lookup, or was not embedded yet."""
    similar_may_serve: bool = False
    """Whether a similar question's answer is still to be looked for."""
    only_checks: bool = False
    """Whether it is asked afresh to see whether what was served was right."""
    near: tuple[Near, ...] = ()
    """The entries beside it, the nearest first."""
    features: tuple[float, ...] | None = None
    """Of the nearest of them, as `deployments.cache.likeness` has them."""
    why: str = ""
    """What spoke for or against the nearest."""
    verified_by: str | None = None
    """The verifier that was asked and said yes."""

    @property
    def storable(self) -> bool:
        return self.exact_key is not None and self.answer is None

    @property
    def partition(self) -> str:
        """Of which requests it is one, when answers are checked."""
        return f"{self.scope}:{self.kind or 'unknown'}{TURN if self.turn else ''}"
