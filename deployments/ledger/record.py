"""One row of the query log: what was asked, who answered, what it took. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from configs.catalog import Catalog
from deployments.classifier.rules import last_user_text
from deployments.contract import ChatRequest, RequestContext
from deployments.router.decision import HITS, CacheOutcome, RouteDecision

QUERY_CHARS = 500
"""How much of the question is kept."""


@dataclass
class Progress:
    """What can be seen of an answer while it passes."""

    received: float
    first_token: float | None = None
    finish_reason: str | None = None
    usage: CompletionUsage | None = None

    def see(self, item: object) -> None:
        """Take note of one item of the stream."""
        if not isinstance(item, ChatCompletionChunk):
            return
        self.usage = item.usage or self.usage
        for choice in item.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            delta = choice.delta
            if self.first_token is None and (
                delta.content or delta.tool_calls or getattr(delta, "reasoning_content", None)
            ):
                self.first_token = time.time()


@dataclass
class QueryRecord:
    """Times are Unix seconds, durations milliseconds, cost US dollars."""

    request_id: str
    at: float
    key_id: str
    user: str | None
    session: str | None
    query: str
    requested: str
    device: str
    variant: str | None = None
    trace: dict[str, Any] = field(default_factory=dict)
    """The `RouteDecision`."""
    cache: CacheOutcome = "miss"
    cache_distance: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    """What the largest variant would have cost for the same tokens, less what was spent."""
    finish_reason: str | None = None
    status: int = 200
    error: str | None = None

    @classmethod
    def begin(cls, request: ChatRequest, context: RequestContext) -> QueryRecord:
        return cls(
            request_id=context.request_id,
            at=context.received,
            key_id=context.key_id,
            user=context.user or request.user,
            session=context.session,
            query=last_user_text(request.messages)[:QUERY_CHARS],
            requested=request.model or "auto",
            device=context.device,
        )

    def route(
        self,
        decision: RouteDecision,
        cache: CacheOutcome,
        distance: float | None,
        *,
        variant: str | None = None,
    ) -> None:
        """What was decided; `variant` where another one's answer came from the cache."""
        self.variant = variant or decision.variant
        self.trace = decision.as_dict()
        self.cache, self.cache_distance = cache, distance

    def fail(self, status: int, error: str) -> None:
        """How it failed; 499 is a client that went away."""
        self.status, self.error = status, error[:QUERY_CHARS]

    def finish(self, progress: Progress, catalog: Catalog, served: Iterable[str] = ()) -> None:
        """Durations, tokens and cost, at the end; `served`: who might have been asked instead."""
        self.latency_ms = round((time.time() - self.at) * 1e3, 3)
        if progress.first_token is not None:
            self.ttft_ms = round((progress.first_token - self.at) * 1e3, 3)
        self.finish_reason = progress.finish_reason
        if progress.usage is not None:
            self.prompt_tokens = progress.usage.prompt_tokens
            self.completion_tokens = progress.usage.completion_tokens
            details = progress.usage.prompt_tokens_details
            self.cached_tokens = (details.cached_tokens or 0) if details else 0
        if self.cache not in HITS:
            self.cost_usd = self._spent(catalog)
        others = (cost_of(name, self.prompt_tokens, self.completion_tokens, catalog) for name in served)
        self.saved_usd = max(others, default=self.cost_usd) - self.cost_usd if self.status < 400 else 0.0

    def _spent(self, catalog: Catalog) -> float:
        # Who was asked in vain has cost something too; what the client has of them is in the answer's tokens.
        attempts = self.trace.get("attempts", ())
        before = attempts[:-1]
        own = self.completion_tokens - sum(attempt["tokens"] for attempt in before if attempt["heard"])
        spent = [(self.variant, max(0, own)), *((attempt["variant"], attempt["tokens"]) for attempt in before)]
        cost = sum(cost_of(name, self.prompt_tokens, tokens, catalog) for name, tokens in spent)
        # A question about its own answer is nearly all reading.
        return cost + sum(cost_of(attempt["variant"], attempt["checked"], 0, catalog) for attempt in attempts)

    def as_row(self) -> dict[str, Any]:
        """JSON types only."""
        return dict(self.__dict__)


def cost_of(variant: str | None, prompt_tokens: int, completion_tokens: int, catalog: Catalog) -> float:
    """US dollars at the catalog's prices; nothing for one that it does not know."""
    spec = catalog.variants.get(variant or "")
    return (prompt_tokens * spec.price.input + completion_tokens * spec.price.output) / 1e6 if spec else 0.0
