"""The exact lookup: one GET, in the process that asks. Whatever goes wrong is a miss.

The Router does it itself, because a call to another deployment would take many times as long as the GET.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from redis.asyncio import Redis

from configs.routing import CacheRules
from deployments.cache.answer import Lookup
from deployments.cache.canonical import cache_keys
from deployments.cache.exact_store import ExactStore
from deployments.cache.patience import FAILURES, Patience
from deployments.cache.seal import Open
from deployments.contract import ChatRequest, RequestContext
from deployments.router.decision import Given


class ExactCache:
    """Answers to exactly the same request."""

    def __init__(self, redis: Redis, seal: Open) -> None:
        self._store = ExactStore(redis, seal)
        self._patience = Patience()

    async def look_up(self, request: ChatRequest, context: RequestContext, rules: CacheRules) -> Lookup:
        """Has exactly this been answered? Never raises; waits for Redis no longer than the
        budget (`within`)."""
        keys = cache_keys(request, context, rules)
        if keys is None:
            return Lookup("bypass")
        entry = self._store.named(keys.exact)
        found = await self._patience.ask(partial(self._store.get, entry), rules.budget_ms)
        if found is None:
            # Without its epoch an answer cannot be kept.
            return Lookup("miss", same=entry, query=keys.query)
        answer, epoch = found
        if answer is not None and context.cache == "use":
            return Lookup("exact", answer, 0.0, exact_key=entry, scope=keys.scope)
        return Lookup(
            "miss",
            same=entry,
            exact_key=entry,
            fingerprint=None if keys.fingerprint is None else self._store.named(keys.fingerprint),
            query=keys.query,
            scope=keys.scope,
            tag=keys.tag,
            turn=keys.turn,
            epoch=epoch,
            similar_may_serve=context.cache != "refresh"
            and keys.fingerprint is not None
            and rules.mode != "exact",
            only_checks=context.cache == "check",
        )

    async def gave(self, request_id: str, given: Given) -> None:
        """Remember which entry a request was given, or has led to. Never raises."""
        with suppress(*FAILURES):  # (A thumbs-down will not find it.)
            await self._store.gave(request_id, given)

    async def take_given(self, request_id: str, key_id: str) -> Given | None:
        """What was given for a request of this key's, once. Never raises."""
        with suppress(*FAILURES):
            return await self._store.take_given(request_id, key_id)
        return None

    async def served(self, lookup: Lookup) -> None:
        """An entry was of use: it is worth its room."""
        if lookup.answer is None or lookup.exact_key is None:
            return
        with suppress(*FAILURES):  # (It is counted less than it is worth.)
            await self._store.used(lookup.exact_key, lookup.answer)
