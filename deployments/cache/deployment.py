"""The SemanticCache as a Serve deployment: similar questions, and what is kept. It also holds the group's
one embedder. (The Router makes the exact lookup itself, see `exact`.)"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from configs.routing import CacheRules, Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.guards import may_serve
from deployments.cache.patience import Patience
from deployments.cache.store import CacheStore, as_bytes, connect
from deployments.embedding.embedder import Embedder
from deployments.serving import deployment


@deployment
class SemanticCache:
    """Finds similar questions and keeps answers. Whatever goes wrong is a miss."""

    def __init__(self, redis_url: str, model: str, tokenizer: str, max_tokens: int) -> None:
        self._embedder = Embedder(Path(model), Path(tokenizer), max_tokens=max_tokens)
        self._store = CacheStore(connect(redis_url), self._embedder.dimensions)
        self._rules: CacheRules
        self._patience = Patience()
        self._embedded = 0

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        self._rules = Routing.model_validate(config["routing"]).cache

    async def find_similar(self, missed: Lookup) -> Lookup:
        """Has a similar question been answered? Takes an exact lookup's miss that asks for this. Never raises;
        Redis never takes longer than its budget."""
        assert missed.fingerprint is not None and missed.query is not None
        embedding = self._embed_query(missed.query)
        near = await self._patience.ask(
            partial(self._store.nearest, missed.fingerprint, embedding, self._rules.candidates),
            self._rules.budget_ms,
        )
        for found in near or ():
            if may_serve(missed.query, found.query, found.distance, self._rules):
                return Lookup("semantic", found.answer, found.distance)
        distance = near[0].distance if near else None
        return replace(missed, distance=distance, embedding=embedding, similar_may_serve=False)

    async def store(self, answer: CachedAnswer, missed: Lookup) -> None:
        """Keep the answer that a miss led to."""
        if missed.exact_key is None:
            return
        embedding = missed.embedding
        if embedding is None and missed.fingerprint is not None and missed.query is not None:
            embedding = self._embed_query(missed.query)
        try:
            await self._store.put(
                missed.exact_key,
                answer,
                self._rules.ttl_seconds,
                fingerprint=missed.fingerprint,
                embedding=embedding,
                query=missed.query,
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._patience.failed(error)

    async def embed_query(self, query: str) -> bytes:
        """A question's embedding (float32, little-endian), for a decision that no lookup comes before."""
        return self._embed_query(query)

    def _embed_query(self, query: str) -> bytes:
        self._embedded += 1
        return as_bytes(self._embedder.embed([query])[0])

    async def embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Embeddings for `/v1/embeddings`, and the tokens read; in a thread, so that lookups go on."""
        vectors = await asyncio.to_thread(self._embedder.embed, texts)
        tokens = await asyncio.to_thread(self._embedder.count_tokens, texts)
        return vectors.tolist(), tokens

    async def stats(self) -> dict[str, Any]:
        """Entries now, and the rules in force."""
        entries: dict[str, int] | None
        try:
            entries = await self._store.counts()
        except (RedisError, OSError, TimeoutError):
            entries = None
        return {
            "entries": entries,
            "embedded": self._embedded,
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
