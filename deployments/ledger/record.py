"""One row of the query log: what was asked, who answered, what it took. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from configs.catalog import Catalog
from deployments.classifier.rules import last_user_text, rough_tokens
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.keeping import QUERY_CHARS, Keeping
from deployments.router.decision import HITS, CacheOutcome, RouteDecision

LONGEST_WAY_SECONDS = 60.0
"""From the Gateway to here: what is longer is a clock that was moved."""


@dataclass
class Progress:
    """What can be seen of an answer while it passes."""

    received: float
    """Unix time, seconds."""
    first_token: float | None = None
    """Seconds since it was received."""
    pieces: int = 0
    """Of text, which are about tokens: what is known of an answer that was left before its end."""
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
            if delta.content or delta.tool_calls or getattr(delta, "reasoning_content", None):
                self.pieces += 1
                if self.first_token is None:
                    self.first_token = self.elapsed()

    def __post_init__(self) -> None:
        # The wall clock says how long it took to get here, and no more: it may be moved meanwhile.
        self._began = time.monotonic() - min(max(0.0, time.time() - self.received), LONGEST_WAY_SECONDS)

    def elapsed(self) -> float:
        """Seconds since the request was received."""
        return time.monotonic() - self._began


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
    energy_wh: float | None = None
    """What the machines drew for it; None: nobody knows."""
    electricity_usd: float | None = None
    saved_usd: float = 0.0
    """What the largest variant would have cost for the same tokens, less what was spent."""
    confidence: float | None = None
    """P(right) of who answered, where it is known."""
    escalations: int = 0
    """Variants that were unsure and handed over to a larger one."""
    finish_reason: str | None = None
    status: int = 200
    error: str | None = None
    quotable: bool = True
    """Whether what goes wrong may be kept in words."""
    rough_tokens: int = 0
    """Of the question, by its length."""

    @classmethod
    def begin(cls, request: ChatRequest, context: RequestContext, keeping: Keeping) -> QueryRecord:
        """`keeping`: what is kept of questions whose key says nothing of it."""
        return cls(
            request_id=context.request_id,
            at=context.received,
            key_id=context.key_id,
            user=context.user or request.user,
            session=context.session,
            query=keeping.kept(last_user_text(request.messages), context.query_text),
            requested=request.model or "auto",
            device=context.device,
            quotable=keeping.policy(context.query_text) == "text",
            rough_tokens=rough_tokens(request.messages),
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
        attempts = decision.attempts
        self.confidence = attempts[-1].confidence if attempts else None
        self.escalations = sum(attempt.outcome == "escalated" for attempt in attempts)
        self.cache, self.cache_distance = cache, distance

    def fail(self, status: int, error: str) -> None:
        """How it failed; 499 is a client that went away. (What is wrong with a request may quote it: of one whose
        question is not kept, nothing but the status is.)"""
        self.status = status
        self.error = error[:QUERY_CHARS] if self.quotable else f"status {status}"

    def drew(self, watt_hours: float | None, usd_per_kwh: float) -> None:
        """The energy that it took; None: nobody knows."""
        if watt_hours is not None:
            self.energy_wh, self.electricity_usd = watt_hours, watt_hours / 1000 * usd_per_kwh

    def finish(self, progress: Progress, catalog: Catalog, served: Iterable[str] = ()) -> None:
        """Durations, tokens and cost, at the end; `served`: who might have been asked instead."""
        self.latency_ms = round(progress.elapsed() * 1e3, 3)
        if progress.first_token is not None:
            self.ttft_ms = round(progress.first_token * 1e3, 3)
        self.finish_reason = progress.finish_reason
        if progress.usage is not None:
            self.prompt_tokens = progress.usage.prompt_tokens
            self.completion_tokens = progress.usage.completion_tokens
            details = progress.usage.prompt_tokens_details
            self.cached_tokens = (details.cached_tokens or 0) if details else 0
        elif progress.pieces:
            self.prompt_tokens, self.completion_tokens = self.rough_tokens, progress.pieces
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
        return {name: value for name, value in self.__dict__.items() if name not in ("quotable", "rough_tokens")}


def cost_of(variant: str | None, prompt_tokens: int, completion_tokens: int, catalog: Catalog) -> float:
    """US dollars at the catalog's prices; nothing for one that it does not know."""
    spec = catalog.variants.get(variant or "")
    return (prompt_tokens * spec.price.input + completion_tokens * spec.price.output) / 1e6 if spec else 0.0
