"""The SemanticCache as a Serve deployment; it also holds the group's one embedder."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from configs.routing import CacheRules, Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.canonical import CacheKeys, cache_keys
from deployments.cache.store import CacheStore, as_bytes, connect
from deployments.contract import ChatRequest, RequestContext
from deployments.embedding.embedder import Embedder
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

COOL_DOWN_SECONDS = 1.0
"""After a failure of Redis, lookups are misses for this long, so that nobody waits for a dead one."""


@deployment
class SemanticCache:
    """Exact, then similar. Whatever goes wrong is a miss."""

    def __init__(self, redis_url: str, model: str, tokenizer: str, max_tokens: int) -> None:
        self._embedder = Embedder(Path(model), Path(tokenizer), max_tokens=max_tokens)
        self._store = CacheStore(connect(redis_url), self._embedder.dimensions)
        self._rules: CacheRules
        self._outcomes: Counter[str] = Counter()
        self._tokens_saved = 0
        self._error: str | None = None
        self._blocked_until = 0.0

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        self._rules = Routing.model_validate(config["routing"]).cache

    async def look_up(self, request: ChatRequest, context: RequestContext) -> Lookup:
        """Is there an answer already? Never raises, never takes longer than its budget."""
        keys = cache_keys(request, context, self._rules)
        if keys is None:
            return self._counted(Lookup("bypass"))
        if asyncio.get_running_loop().time() < self._blocked_until:
            return self._counted(Lookup("miss", exact_key=keys.exact))
        try:
            found = await asyncio.wait_for(
                self._find(keys, self._rules, refresh=context.cache == "refresh"),
                self._rules.budget_ms / 1e3,
            )
            self._error = None
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            found = Lookup("miss", exact_key=keys.exact)
        return self._counted(found)

    async def _find(self, keys: CacheKeys, rules: CacheRules, *, refresh: bool) -> Lookup:
        answer = None if refresh else await self._store.get(keys.exact)
        if answer is not None:
            return Lookup("exact", answer, 0.0)
        if keys.fingerprint is None:
            return Lookup("miss", exact_key=keys.exact)
        embedding = as_bytes(self._embedder.embed([keys.query])[0])
        nearest = None if refresh else await self._store.nearest(keys.fingerprint, embedding)
        if nearest is not None and nearest[1] <= rules.distance:
            return Lookup("semantic", nearest[0], nearest[1])
        return Lookup(
            "miss",
            distance=nearest[1] if nearest else None,
            exact_key=keys.exact,
            fingerprint=keys.fingerprint,
            query=keys.query,
            embedding=embedding,
        )

    async def store(self, answer: CachedAnswer, lookup: Lookup) -> None:
        """Keep the answer that a miss led to."""
        if lookup.exact_key is None:
            return
        try:
            await self._store.put(
                lookup.exact_key,
                answer,
                self._rules.ttl_seconds,
                fingerprint=lookup.fingerprint,
                embedding=lookup.embedding,
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)

    async def embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Embeddings for `/v1/embeddings`, and the tokens read; in a thread, so that lookups go on."""
        vectors = await asyncio.to_thread(self._embedder.embed, texts)
        tokens = await asyncio.to_thread(self._embedder.count_tokens, texts)
        return vectors.tolist(), tokens

    async def stats(self) -> dict[str, Any]:
        """Outcomes since the start, entries now, and what hits have saved."""
        asked = sum(self._outcomes[kind] for kind in ("exact", "semantic", "miss"))
        hits = self._outcomes["exact"] + self._outcomes["semantic"]
        entries: dict[str, int] | None
        try:
            entries = await self._store.counts()
        except (RedisError, OSError, TimeoutError):
            entries = None
        return {
            "outcomes": {kind: self._outcomes[kind] for kind in ("exact", "semantic", "miss", "bypass")},
            "hit_rate": hits / asked if asked else None,
            "completion_tokens_saved": self._tokens_saved,
            "entries": entries,
            "distance_threshold": self._rules.distance,
            "ttl_seconds": self._rules.ttl_seconds,
        }

    async def clear(self) -> int:
        """Delete every entry. Raises `RedisError` where Redis is away."""
        return await self._store.clear()

    async def health(self) -> dict[str, Any]:
        """Whether Redis answers."""
        try:
            await self._store.ping()
            return {"ok": True, "error": None}
        except (RedisError, OSError, TimeoutError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _counted(self, lookup: Lookup) -> Lookup:
        self._outcomes[lookup.outcome] += 1
        if lookup.answer is not None:
            self._tokens_saved += lookup.answer.completion_tokens
        return lookup

    def _failed(self, error: Exception) -> None:
        if self._error is None:
            logger.warning("Redis is away (%s); lookups are misses", error)
        self._error = f"{type(error).__name__}: {error}"
        self._blocked_until = asyncio.get_running_loop().time() + COOL_DOWN_SECONDS
