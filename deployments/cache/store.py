"""The cache's entries in Redis: exact by key, similar by vector. Every entry dies at its time.

Vectors are indexed by redisvl (HNSW, cosine). redisvl's own `SemanticCache` is not used because it
fixes a flat index and lets reads prolong an entry's life.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redisvl.index import AsyncSearchIndex

from deployments.cache.answer import CachedAnswer

EXACT = "gq:exact:"
PREFIX = "gq:semantic"
INDEX = "gq:semantic:idx"
_RETURNED = ("answer", "query", "expires_at", "distance")


def connect(url: str) -> Redis:
    """A client that fails fast: a lookup is worth tens of milliseconds, not a reconnection."""
    return Redis.from_url(
        url, socket_timeout=1.0, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 1), max_connections=64
    )


async def get_exact(redis: Redis, key: str) -> CachedAnswer | None:
    """The answer to exactly this request. Raises `RedisError`."""
    value = await redis.get(EXACT + key)
    return _load(value) if value else None


@dataclass(frozen=True)
class Near:
    """An entry that was found by its vector. `query`: the question that it answers; `distance`: cosine, 0 to 2."""

    answer: CachedAnswer
    query: str
    distance: float


class CacheStore:
    """Entries of one Redis. Methods raise `RedisError` where it is away."""

    def __init__(self, redis: Redis, dimensions: int) -> None:
        self._redis = redis
        self._index = AsyncSearchIndex.from_dict(
            {
                "index": {"name": INDEX, "prefix": PREFIX, "storage_type": "hash"},
                "fields": [
                    {"name": "fingerprint", "type": "tag"},
                    {
                        "name": "embedding",
                        "type": "vector",
                        "attrs": {
                            "dims": dimensions,
                            "algorithm": "hnsw",
                            "distance_metric": "cosine",
                            "datatype": "float32",
                        },
                    },
                ],
            },
            redis_client=redis,
        )
        self._indexed = False

    async def nearest(self, fingerprint: str, embedding: bytes, count: int) -> list[Near]:
        """The `count` most similar entries with this fingerprint, the nearest first."""
        await self._ensure_index()
        # redisvl's schema and index, but its query in plain words: building and parsing its query objects
        # takes longer than the search.
        try:
            reply: Any = await self._redis.execute_command(  # type: ignore[no-untyped-call]
                "FT.SEARCH",
                INDEX,
                f"(@fingerprint:{{{fingerprint}}})=>[KNN {count} @embedding $vector AS distance]",
                *("PARAMS", "2", "vector", embedding, "SORTBY", "distance"),
                *("RETURN", str(len(_RETURNED)), *_RETURNED, "LIMIT", "0", str(count), "DIALECT", "2"),
            )
        except ResponseError:
            # Redis was restarted empty and has lost the index; the next lookup makes it again.
            self._indexed = False
            raise
        now = time.time()
        return [
            Near(_load(found["answer"]), found.get("query", ""), float(found["distance"]))
            for found in _results(reply)
            if float(found["expires_at"]) >= now
        ]

    async def put(
        self,
        key: str,
        answer: CachedAnswer,
        ttl_seconds: int,
        *,
        fingerprint: str | None,
        embedding: bytes | None,
        query: str | None,
    ) -> None:
        """Keep an answer for `ttl_seconds` from now; reading it does not prolong that."""
        body = json.dumps(asdict(answer))
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(EXACT + key, body, ex=ttl_seconds)
        if fingerprint is not None and embedding is not None:
            await self._ensure_index()
            entry = f"{PREFIX}:{key}"
            fields: dict[str, str | bytes] = {
                "fingerprint": fingerprint,
                "embedding": embedding,
                "query": query or "",
                "answer": body,
                "expires_at": str(time.time() + ttl_seconds),
            }
            pipeline.hset(entry, mapping=fields)  # type: ignore[arg-type]
            pipeline.expire(entry, ttl_seconds)
        await pipeline.execute()

    async def clear(self) -> int:
        """Delete every entry; returns how many there were."""
        deleted = 0
        for pattern in (f"{EXACT}*", f"{PREFIX}:*"):
            batch: list[bytes] = []
            async for key in self._redis.scan_iter(pattern, count=1000):
                batch.append(key)
                if len(batch) == 1000:
                    deleted += int(await self._redis.unlink(*batch))
                    batch = []
            if batch:
                deleted += int(await self._redis.unlink(*batch))
        return deleted

    async def counts(self) -> dict[str, int]:
        """Entries by kind."""
        counted = {"exact": 0, "semantic": 0}
        async for _ in self._redis.scan_iter(f"{EXACT}*", count=1000):
            counted["exact"] += 1
        async for _ in self._redis.scan_iter(f"{PREFIX}:*", count=1000):
            counted["semantic"] += 1
        return counted

    async def ping(self) -> None:
        await self._redis.ping()

    async def _ensure_index(self) -> None:
        if not self._indexed:
            if not await self._index.exists():
                try:
                    await self._index.create(overwrite=False)
                except RedisError as error:
                    if "already exists" not in str(error).lower():
                        raise
            self._indexed = True


def as_bytes(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """A vector as Redis takes it."""
    return np.asarray(vector, "<f4").tobytes()


def _load(value: bytes | str) -> CachedAnswer:
    return CachedAnswer(**json.loads(value))


def _results(reply: Any) -> list[dict[str, str]]:
    """The fields of each document, in the reply's form of RESP 2 (a list) or 3 (a map)."""
    if isinstance(reply, dict):
        named = {_text(key): value for key, value in reply.items()}
        documents = [{_text(key): value for key, value in found.items()} for found in named.get("results") or []]
        pairs = [list(document.get("extra_attributes", {}).items()) for document in documents]
    else:
        # (One that has expired meanwhile has none.)
        pairs = [list(zip(fields[::2], fields[1::2], strict=True)) for fields in reply[2::2] if fields]
    return [{_text(key): _text(value) for key, value in fields} for fields in pairs if fields]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
