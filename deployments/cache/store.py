"""The cache's entries in Redis: exact by key, similar by vector. Every entry dies at its time.

Vectors are indexed by redisvl (HNSW, cosine), in an index that carries its embedder's name: vectors of two
embedders are never compared. redisvl's own `SemanticCache` is not used because it fixes a flat index and lets
reads prolong an entry's life.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redisvl.exceptions import RedisVLError
from redisvl.index import AsyncSearchIndex

from deployments.cache.answer import CachedAnswer, Near
from deployments.cache.experience import Event

EXACT = "gq:exact:"
EPOCH = "gq:cache:epoch"
"""Raised by whatever forgets entries: an answer that was asked for before is not kept afterwards."""

LAYOUT = 3
"""Part of the index's name: raise it when its fields change."""

KEPT_EVENTS = 40_000
_LOOKED_AT = ("query", "group", "expires_at", "distance")
_SHOWN = ("query", "group", "expires_at", "answer", "variant")

PUT = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
if #ARGV > 3 then
  redis.call('HSET', KEYS[3], unpack(ARGV, 4))
  redis.call('EXPIRE', KEYS[3], ARGV[3])
end
return 1
"""
"""Both forms of an entry, or none where the epoch is another one."""


def connect(url: str) -> Redis:
    """A client that fails fast: a lookup is worth tens of milliseconds, not a reconnection."""
    return Redis.from_url(
        url,
        socket_timeout=1.0,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 1),
        max_connections=64,
        encoding_errors="replace",  # (Half a character, as JSON can hold it, is none that Redis is given.)
    )


async def get_exact(redis: Redis, key: str) -> tuple[CachedAnswer | None, str]:
    """The answer to exactly this request, and the epoch in which there was none. Raises `RedisError`."""
    value, epoch = await redis.mget(EXACT + key, EPOCH)
    return (_load(value) if value else None), _text(epoch or "0")


@dataclass(frozen=True)
class Kept:
    """What is kept of an answer. `key`: its exact key, which is also the entry's id; `epoch`: of when it was asked
    for; `scope`: who may be served; `seconds`: its life. The rest is None where no similar question may be
    served."""

    key: str
    answer: CachedAnswer
    epoch: str
    scope: str
    seconds: int
    fingerprint: str | None = None
    embedding: bytes | None = None
    query: str = ""
    group: str = ""


@dataclass(frozen=True)
class Shown:
    """An entry as people see it. `expires_at`: seconds since 1970."""

    entry: str
    query: str
    group: str
    variant: str
    answer: CachedAnswer
    expires_at: float
    distance: float | None = None


class CacheStore:
    """Entries of one Redis, by one embedder. Methods raise `RedisError` where it is away."""

    def __init__(self, redis: Redis, dimensions: int, embedder: str) -> None:
        self._redis = redis
        self.name = f"gq:semantic{LAYOUT}:{embedder}"
        self._prefix = f"{self.name}:entry"
        self._events = f"{self.name}:events"
        self._put = redis.register_script(PUT)
        vectors = {"dims": dimensions, "algorithm": "hnsw", "distance_metric": "cosine", "datatype": "float32"}
        self._index = AsyncSearchIndex.from_dict(
            {
                "index": {"name": self.name, "prefix": self._prefix, "storage_type": "hash"},
                "fields": [
                    {"name": "fingerprint", "type": "tag"},
                    {"name": "scope", "type": "tag"},
                    {"name": "variant", "type": "tag"},
                    {"name": "embedding", "type": "vector", "attrs": vectors},
                ],
            },
            redis_client=redis,
        )
        self._indexed = False

    async def nearest(self, fingerprint: str, embedding: bytes, count: int) -> list[Near]:
        """The `count` most similar entries with this fingerprint, the nearest first."""
        found = await self._search(f"@fingerprint:{{{fingerprint}}}", _LOOKED_AT, embedding=embedding, count=count)
        now = time.time()
        return [
            Near(entry, fields.get("query", ""), float(fields["distance"]), fields.get("group", entry))
            for entry, fields in found
            if float(fields["expires_at"]) >= now
        ]

    async def answers(self, entries: Sequence[str]) -> dict[str, CachedAnswer]:
        """Those of these entries that are still there."""
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hget(f"{self._prefix}:{entry}", "answer")
        found = await pipeline.execute()
        return {entry: _load(value) for entry, value in zip(entries, found, strict=True) if value}

    async def put(self, kept: Kept) -> bool:
        """Keep an answer; reading it does not prolong its life. False where something was forgotten since it was
        asked for."""
        fields: dict[str, str | bytes] = {}
        if kept.fingerprint is not None and kept.embedding is not None:
            await self._ensure_index()
            fields = {
                "fingerprint": kept.fingerprint,
                "scope": kept.scope,
                "variant": kept.answer.variant,
                "embedding": kept.embedding,
                "query": kept.query,
                "group": kept.group or kept.key,
                "expires_at": str(time.time() + kept.seconds),
            }
        body = json.dumps(asdict(kept.answer))
        fields |= {"answer": body} if fields else {}
        pairs = [part for pair in fields.items() for part in pair]
        done = await self._put(
            keys=[EPOCH, EXACT + kept.key, f"{self._prefix}:{kept.key}"],
            args=[kept.epoch, body, kept.seconds, *pairs],
        )
        return bool(done)

    async def shown(
        self, scope: str, *, embedding: bytes | None = None, variant: str | None = None, count: int = 20
    ) -> list[Shown]:
        """Entries of this scope: those nearest to a vector, nearest first, or any."""
        wanted = f"@scope:{{{_tag(scope)}}}" + (f" @variant:{{{_tag(variant)}}}" if variant else "")
        now = time.time()
        return [
            Shown(
                entry,
                fields.get("query", ""),
                fields.get("group", entry),
                fields.get("variant", ""),
                _load(fields["answer"]),
                float(fields["expires_at"]),
                float(fields["distance"]) if "distance" in fields else None,
            )
            for entry, fields in await self._search(wanted, _SHOWN, embedding=embedding, count=count)
            if float(fields["expires_at"]) >= now
        ]

    async def of_scope(self, scope: str, entries: Sequence[str]) -> list[str]:
        """Those of these entries that are of this scope."""
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hget(f"{self._prefix}:{entry}", "scope")
        found = await pipeline.execute()
        return [entry for entry, its in zip(entries, found, strict=True) if its and _text(its) == scope]

    async def forget(self, entries: Sequence[str]) -> int:
        """Delete these, for everyone who reads this Redis; and what is being made of questions that were asked
        before now is not kept. Returns how many entries there were."""
        if not entries:
            return 0
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.incr(EPOCH)
        for entry in entries:
            pipeline.unlink(EXACT + entry)
            pipeline.unlink(f"{self._prefix}:{entry}")
        _, *gone = await pipeline.execute()
        return sum(1 for exact, similar in zip(gone[::2], gone[1::2], strict=True) if exact or similar)

    async def clear(self) -> int:
        """Delete every entry; returns how many there were."""
        deleted = 0
        await self._redis.incr(EPOCH)
        for pattern in (f"{EXACT}*", f"{self._prefix}:*"):
            batch: list[bytes] = []
            async for key in self._redis.scan_iter(pattern, count=1000):
                batch.append(key)
                if len(batch) == 1000:
                    deleted += int(await self._redis.unlink(*batch))
                    batch = []
            if batch:
                deleted += int(await self._redis.unlink(*batch))
        return deleted

    async def note(self, events: Sequence[Event]) -> None:
        """Keep what was learned; the oldest goes."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(self._events, *(json.dumps(event) for event in events))
        pipeline.ltrim(self._events, -KEPT_EVENTS, -1)
        await pipeline.execute()

    async def events(self) -> list[Event]:
        """What was learned, the oldest first."""
        return [json.loads(one) for one in await self._redis.lrange(self._events, 0, -1)]

    async def counts(self) -> dict[str, int]:
        """Entries by kind."""
        counted = {"exact": 0, "semantic": 0}
        for kind, pattern in (("exact", f"{EXACT}*"), ("semantic", f"{self._prefix}:*")):
            async for _ in self._redis.scan_iter(pattern, count=1000):
                counted[kind] += 1
        return counted

    async def ping(self) -> None:
        await self._redis.ping()

    async def _search(
        self, wanted: str, fields: Sequence[str], *, embedding: bytes | None, count: int
    ) -> list[tuple[str, dict[str, str]]]:
        """Ids and fields of entries."""
        await self._ensure_index()
        # redisvl's schema and index, but its query in plain words: building and parsing its query objects
        # takes longer than the search.
        near: tuple[Any, ...] = ()
        if embedding is not None:
            wanted = f"({wanted})=>[KNN {count} @embedding $vector AS distance]"
            near = ("PARAMS", "2", "vector", embedding, "SORTBY", "distance")
            fields = list(dict.fromkeys((*fields, "distance")))
        asked = ("RETURN", str(len(fields)), *fields, "LIMIT", "0", str(count), "DIALECT", "2")
        try:
            reply: Any = await self._redis.execute_command("FT.SEARCH", self.name, wanted, *near, *asked)  # type: ignore[no-untyped-call]
        except ResponseError:
            # Redis was restarted empty and has lost the index; the next lookup makes it again.
            self._indexed = False
            raise
        return [(key.removeprefix(f"{self._prefix}:"), found) for key, found in _results(reply)]

    async def _ensure_index(self) -> None:
        if self._indexed:
            return
        try:
            if not await self._index.exists():
                await self._index.create(overwrite=False)
        except RedisVLError as error:
            # (Another replica may have made it just now.)
            if "already exists" not in str(error).lower():
                raise RedisError(str(error)) from error
        self._indexed = True


def as_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    """A vector as Redis takes it."""
    return np.asarray(vector, "<f4").tobytes()


def _tag(value: str) -> str:
    """A tag's value in a query: whatever is in it, it is one word."""
    return "".join(one if one.isalnum() or one == "_" else f"\\{one}" for one in value)


def _load(value: bytes | str) -> CachedAnswer:
    return CachedAnswer(**json.loads(value))


def _results(reply: Any) -> list[tuple[str, dict[str, str]]]:
    """Key and fields of each document, in the reply's form of RESP 2 (a list) or 3 (a map)."""
    if isinstance(reply, dict):
        named = {_text(key): value for key, value in reply.items()}
        documents = [{_text(key): value for key, value in found.items()} for found in named.get("results") or []]
        pairs = [
            (_text(document.get("id", "")), list(document.get("extra_attributes", {}).items()))
            for document in documents
        ]
    else:
        # (One that has expired meanwhile has none.)
        pairs = [
            (_text(key), list(zip(fields[::2], fields[1::2], strict=True)))
            for key, fields in zip(reply[1::2], reply[2::2], strict=True)
            if fields
        ]
    return [(key, {_text(name): _text(value) for name, value in fields}) for key, fields in pairs if fields]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
