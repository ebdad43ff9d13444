"""The exact lookup: one GET, in the process that asks. Whatever goes wrong is a miss.

The Router does it itself, because a call to another deployment would take many times as long as the GET.
"""

from __future__ import annotations

from functools import partial

from redis.asyncio import Redis

from configs.routing import CacheRules
from deployments.cache.answer import Lookup
from deployments.cache.canonical import cache_keys
from deployments.cache.patience import Patience
from deployments.cache.store import get_exact
from deployments.contract import ChatRequest, RequestContext


class ExactCache:
    """Answers to exactly the same request."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._patience = Patience()

    async def look_up(self, request: ChatRequest, context: RequestContext, rules: CacheRules) -> Lookup:
        """Has exactly this been answered? Never raises, never takes longer than its budget."""
        keys = cache_keys(request, context, rules)
        if keys is None:
            return Lookup("bypass")
        fresh = context.cache == "refresh"
        if not fresh:
            answer = await self._patience.ask(partial(get_exact, self._redis, keys.exact), rules.budget_ms)
            if answer is not None:
                return Lookup("exact", answer, 0.0)
        return Lookup(
            "miss",
            exact_key=keys.exact,
            fingerprint=keys.fingerprint,
            query=keys.query,
            similar_may_serve=not fresh and keys.fingerprint is not None,
        )
