"""The cache's entries in Redis: exact by key, similar by vector. Every entry dies at its time.

Vectors are indexed by redisvl (HNSW, cosine), in an index that carries its embedder's name: vectors of two
embedders are never compared. redisvl's own `SemanticCache` is not used because it fixes a flat index and lets
reads prolong an entry's life.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redisvl.exceptions import RedisVLError
from redisvl.index import AsyncSearchIndex

from deployments.cache.answer import CachedAnswer, Near
from deployments.cache.entries import Kept, Room, Shown
from deployments.cache.exact_store import ExactStore
from deployments.cache.names import EPOCH, Names, as_text, events_of
from deployments.cache.seal import Open, Unreadable
from deployments.cache.space import DROP, PINNED, PUT, TRIM, size_of, worth_of

logger = logging.getLogger("ray.serve")

GONE, FOREVER = -2, -1
"""What Redis says of a life that is over, or has no end."""

NEVER = 1e12
"""Seconds since 1970: when something expires that does not."""

TAGS = ("fingerprint", "scope", "variant", "tag")
SEPARATOR = "\x1f"
"""Of tags; in none of ours."""

RESTING_SECONDS = 30 * 86_400
"""So long, after the last one, it is known what rests on some knowledge."""

BATCH = 1000
SURROUNDINGS = ("fingerprint", "scope", "tag")
"""Whom an entry may serve."""

_LOOKED_AT = ("query", "group", "expires_at", "distance", *SURROUNDINGS)
_SHOWN = ("query", "group", "expires_at", "answer", "variant", *SURROUNDINGS)


class CacheStore(ExactStore):
    """The same, and by their vectors, which are by one embedder."""

    def __init__(self, redis: Redis, dimensions: int, embedder: str, seal: Open) -> None:
        super().__init__(redis, seal, Names(seal.name, embedder))
        self.name, self._entry = self.names.index, self.names.similar
        self._sizes, self._bytes, self._pinned = (self.names.book(name) for name in ("sizes", "bytes", "pinned"))
        self._put, self._drop, self._trim = (redis.register_script(script) for script in (PUT, DROP, TRIM))
        # (As they are: by default Redis takes no notice of capitals, and a comma makes two of one.)
        words = {"case_sensitive": True, "separator": SEPARATOR}
        vectors = {"dims": dimensions, "algorithm": "hnsw", "distance_metric": "cosine", "datatype": "float32"}
        self._index = AsyncSearchIndex.from_dict(
            {
                "index": {"name": self.name, "prefix": self._entry.removesuffix(":"), "storage_type": "hash"},
                "fields": [
                    *({"name": name, "type": "tag", "attrs": words} for name in TAGS),
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
            Near(entry, query, float(fields["distance"]), fields.get("group", entry))
            for entry, fields in found
            if float(fields["expires_at"]) >= now and (query := self.question_of(entry, fields)) is not None
        ]

    async def answers(self, entries: Sequence[str]) -> dict[str, CachedAnswer]:
        """Those of these entries that are still there."""
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hmget(self._entry + entry, "answer", *SURROUNDINGS)
        answers: dict[str, CachedAnswer] = {}
        for entry, (value, *around) in zip(entries, await pipeline.execute(), strict=True):
            fields = dict(zip(SURROUNDINGS, (as_text(one or "") for one in around), strict=True))
            answer = self._load(value, _place(entry, fields)) if value else None
            if answer is not None:
                answers[entry] = answer
        return answers

    async def put(self, kept: Kept) -> bool:
        """Keep an answer; reading it does not prolong its life. False where something was forgotten since it was
        asked for."""
        text = json.dumps(asdict(kept.answer))
        body = self._seal.close(text, kept.key)
        fields: dict[str, str | bytes] = {}
        query = ""
        if kept.fingerprint is not None and kept.embedding is not None:
            await self._ensure_index()
            around = {"fingerprint": kept.fingerprint, "scope": kept.scope, "tag": kept.tag}
            query = self._seal.close(kept.query, f"{_place(kept.key, around)}:query")
            fields = {
                **around,
                "variant": kept.answer.variant,
                "embedding": kept.embedding,
                "query": query,
                "group": kept.group or kept.key,
                "expires_at": str(NEVER if kept.seconds == PINNED else time.time() + kept.seconds),
                "answer": self._seal.close(text, _place(kept.key, around)),
            }
        if kept.tag:
            # (Before the entry itself: a name too many does no harm.)
            names = self._resting_on(kept.scope, kept.tag)
            await self._redis.sadd(names, kept.key)
            await self._redis.expire(names, RESTING_SECONDS)
        pairs = [part for pair in fields.items() for part in pair]
        size = size_of(body, query, kept.embedding if fields else None)
        books = [self._worth, self._sizes, self._bytes, self._clock, self._pinned]
        done = await self._put(
            keys=[EPOCH, self._exact + kept.key, self._entry + kept.key, *books],
            args=[kept.epoch, body, kept.seconds, kept.key, size, worth_of(kept.answer, size), *pairs],
        )
        return bool(done)

    async def pin(self, entries: Sequence[str]) -> int:
        """Let these stay until they are forgotten, whatever else comes. Returns how many there were."""
        _, epoch = await self.get("")
        there = 0
        for entry in entries:
            kept = await self._read(entry)
            embedding = await self._redis.hget(self._entry + entry, "embedding")
            if kept is not None:
                answer = replace(kept.answer, fresh_until=None)
                vector = embedding if isinstance(embedding, bytes) else None
                there += await self.put(
                    replace(kept, answer=answer, epoch=epoch, seconds=PINNED, embedding=vector)
                )
        return there

    async def pinned(self, entry: str) -> bool:
        """Whether it stays."""
        return bool(await self._redis.sismember(self._pinned, entry))

    async def resting_on(self, scope: str, tag: str) -> list[str]:
        """Every entry of this scope that was kept with this tag, and perhaps some that are gone."""
        return [as_text(entry) for entry in await self._redis.smembers(self._resting_on(scope, tag))]

    def _resting_on(self, scope: str, tag: str) -> str:
        return f"{self.names.book('tag')}:{hashlib.blake2b(f'{scope}:{tag}'.encode(), digest_size=16).hexdigest()}"

    async def shown(
        self,
        scope: str,
        *,
        embedding: bytes | None = None,
        variant: str | None = None,
        tag: str | None = None,
        count: int = 20,
    ) -> list[Shown]:
        """Entries of this scope: those nearest to a vector, nearest first, or any."""
        tags = {"scope": scope, "variant": variant, "tag": tag}
        wanted = " ".join(f"@{name}:{{{_tag(value)}}}" for name, value in tags.items() if value)
        found = await self._search(wanted, _SHOWN, embedding=embedding, count=count)
        shown = [self._shown(entry, fields) for entry, fields in found]
        return [one for one in shown if one is not None]

    def _shown(self, entry: str, fields: dict[str, str]) -> Shown | None:
        """None for one that is over, or cannot be read."""
        answer, query = self._load(fields["answer"], _place(entry, fields)), self.question_of(entry, fields)
        expires = float(fields["expires_at"])
        if answer is None or query is None or expires < time.time():
            return None
        return Shown(
            entry,
            query,
            fields.get("group", entry),
            fields.get("variant", ""),
            answer,
            None if expires == NEVER else expires,
            float(fields["distance"]) if "distance" in fields else None,
            fields.get("tag", ""),
        )

    async def of_scope(self, scope: str, entries: Sequence[str]) -> list[str]:
        """Those of these entries that are of this scope."""
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hget(self._entry + entry, "scope")
        found = await pipeline.execute()
        return [entry for entry, its in zip(entries, found, strict=True) if its and as_text(its) == scope]

    async def forget(self, entries: Sequence[str]) -> int:
        """Delete these, for everyone who reads this Redis; and what is being made of questions that were asked
        before now is not kept. Returns how many entries there were."""
        if not entries:
            return 0
        await self._redis.incr(EPOCH)
        return await self._gone(entries)

    async def _gone(self, entries: Sequence[str]) -> int:
        books = [self._worth, self._sizes, self._bytes, self._pinned]
        there = 0
        for begin in range(0, len(entries), BATCH):
            args = [self._exact, self._entry, *entries[begin : begin + BATCH]]
            there += int(await self._drop(keys=books, args=args))
        return there

    async def clear(self) -> int:
        """Delete every entry; returns how many there were."""
        await self._redis.incr(EPOCH)
        deleted = 0
        async for entries in self._kept():
            deleted += await self._gone(entries)
        return deleted

    async def trim(self, most_bytes: int) -> int:
        """Delete what is worth least until the rest is no larger; returns how many went."""
        books = [self._worth, self._sizes, self._bytes, self._clock]
        return int(await self._trim(keys=books, args=[self._exact, self._entry, most_bytes]))

    async def count_out(self) -> int:
        """Take what has expired off the books; returns how many those were."""
        gone: list[str] = []
        async for entries in self._kept():
            pipeline = self._redis.pipeline(transaction=False)
            for entry in entries:
                pipeline.exists(self._exact + entry)
            there = await pipeline.execute()
            gone += [entry for entry, is_there in zip(entries, there, strict=True) if not is_there]
        await self._gone(gone)
        return len(gone)

    async def room(self) -> Room:
        """How much is kept; what has expired is counted until `count_out`."""
        entries, size = await self._redis.hlen(self._sizes), await self._redis.get(self._bytes)
        return Room(int(entries), int(size or 0), int(await self._redis.scard(self._pinned)))

    async def _kept(self) -> AsyncIterator[list[str]]:
        """All entries on the books, many at a time."""
        batch: list[str] = []
        async for entry, _ in self._redis.hscan_iter(self._sizes, count=BATCH):
            batch.append(as_text(entry))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def everything(self) -> AsyncIterator[Kept]:
        """All that is kept, without vectors; `seconds`: what is left of each life."""
        async for entries in self._kept():
            for entry in entries:
                kept = await self._read(entry)
                if kept is not None:
                    yield kept

    async def _read(self, entry: str) -> Kept | None:
        """An entry without its vector; None for one that is gone, or cannot be read."""
        body, fields, left = await self._both_forms(entry)
        answer = self._load(body, entry) if body else None
        query = self.question_of(entry, fields) if fields else ""
        if answer is None or query is None or left == GONE:
            return None
        return Kept(
            key=entry,
            answer=answer,
            epoch="",
            scope=fields.get("scope", ""),
            seconds=PINNED if left == FOREVER else max(1, left),
            fingerprint=fields.get("fingerprint"),
            query=query,
            group=fields.get("group", ""),
            tag=fields.get("tag", ""),
        )

    async def _both_forms(self, entry: str) -> tuple[bytes | None, dict[str, str], int]:
        """The body, the fields but the vector, and the seconds that are left."""
        names = ("query", "scope", "fingerprint", "group", "tag")
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(self._exact + entry)
        pipeline.hmget(self._entry + entry, *names)
        pipeline.ttl(self._exact + entry)
        body, values, left = await pipeline.execute()
        return body, {name: as_text(value) for name, value in zip(names, values, strict=True) if value}, int(left)

    async def ping(self) -> None:
        await self._redis.ping()

    async def remove(self) -> None:
        """Everything that is of this store, its index and books too."""
        await self.clear()
        self._indexed = False
        await self._ensure_index()
        await self._redis.execute_command("FT.DROPINDEX", self.name)  # type: ignore[no-untyped-call]
        books = [name async for name in self._redis.scan_iter(f"{self.names.books}*", count=BATCH)]
        await self._redis.unlink(events_of(self.name), *books)
        self._indexed = False

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
        return [(key.removeprefix(self._entry), found) for key, found in _results(reply)]

    def question_of(self, entry: str, fields: dict[str, str]) -> str | None:
        """An entry's question; None for one that cannot be read."""
        try:
            return self._seal.open(fields.get("query", ""), f"{_place(entry, fields)}:query")
        except Unreadable as error:
            logger.warning("a kept question cannot be read: %s", error)
            return None

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


def _place(entry: str, fields: Mapping[str, str]) -> str:
    """What a text of an entry is bound to: whoever changes whom it may serve makes it unreadable."""
    return "\x1f".join((entry, *(fields.get(name, "") for name in SURROUNDINGS)))


def as_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    """A vector as Redis takes it."""
    return np.asarray(vector, "<f4").tobytes()


def _tag(value: str) -> str:
    """A tag's value in a query: whatever is in it, it is one word."""
    return "".join(one if one.isalnum() or one == "_" else f"\\{one}" for one in value)


def _results(reply: Any) -> list[tuple[str, dict[str, str]]]:
    """Key and fields of each document, in the reply's form of RESP 2 (a list) or 3 (a map)."""
    if isinstance(reply, dict):
        named = {as_text(key): value for key, value in reply.items()}
        documents = [{as_text(key): value for key, value in found.items()} for found in named.get("results") or []]
        pairs = [
            (as_text(document.get("id", "")), list(document.get("extra_attributes", {}).items()))
            for document in documents
        ]
    else:
        # (One that has expired meanwhile has none.)
        pairs = [
            (as_text(key), list(zip(fields[::2], fields[1::2], strict=True)))
            for key, fields in zip(reply[1::2], reply[2::2], strict=True)
            if fields
        ]
    return [(key, {as_text(name): as_text(value) for name, value in fields}) for key, fields in pairs if fields]
