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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from deployments.cache.seal import Open, Unreadable
from deployments.cache.space import DROP, MOVE, PINNED, PUT, TOUCH, TRIM, size_of, worth_of
from deployments.router.decision import Given

logger = logging.getLogger("ray.serve")

EXACT = "gq:exact:"
EPOCH = "gq:cache:epoch"
"""Raised by whatever forgets entries: an answer that was asked for before is not kept afterwards."""

SEMANTIC = "gq:semantic"
LAYOUT = 6
"""Part of the index's name: raise it when its fields change."""

KEPT_EVENTS = 40_000
GONE, FOREVER = -2, -1
"""What Redis says of a life that is over, or has no end."""

NEVER = 1e12
"""Seconds since 1970: when something expires that does not."""

TAGS = ("fingerprint", "scope", "variant", "tag")
SEPARATOR = "\x1f"
"""Of tags; in none of ours."""

BATCH = 1000
SURROUNDINGS = ("fingerprint", "scope", "tag")
"""Whom an entry may serve."""

GIVEN_SECONDS = 86_400
"""So long a thumbs-down finds the entry that it is about."""

_LOOKED_AT = ("query", "group", "expires_at", "distance", *SURROUNDINGS)
_SHOWN = ("query", "group", "expires_at", "answer", "variant", *SURROUNDINGS)


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


@dataclass(frozen=True)
class Kept:
    """What is kept of an answer. `key`: its exact key, which is also the entry's id; `epoch`: of when it was asked
    for; `scope`: who may be served; `seconds`: its life (`PINNED`: until it is forgotten); `tag`: what it rests
    on. The rest is None where no similar question may be served."""

    key: str
    answer: CachedAnswer
    epoch: str
    scope: str
    seconds: int
    fingerprint: str | None = None
    embedding: bytes | None = None
    query: str = ""
    group: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Shown:
    """An entry as people see it. `expires_at`: seconds since 1970, None for a pinned one."""

    entry: str
    query: str
    group: str
    variant: str
    answer: CachedAnswer
    expires_at: float | None
    distance: float | None = None
    tag: str = ""


@dataclass(frozen=True)
class Room:
    """What is kept: entries, their size (bytes, roughly), and how many of them are pinned."""

    entries: int
    size: int
    pinned: int


class ExactStore:
    """Entries of one Redis by their keys. Methods raise `RedisError` where it is away."""

    def __init__(self, redis: Redis, seal: Open) -> None:
        self._redis, self._seal = redis, seal
        self._exact = f"{EXACT}{seal.name}:"
        book = f"gq:cache:{seal.name}"
        self._worth, self._sizes, self._bytes, self._clock, self._pinned = (
            f"{book}:{name}" for name in ("worth", "sizes", "bytes", "clock", "pinned")
        )
        self._book = book
        self._touch = redis.register_script(TOUCH)

    def named(self, key: str) -> str:
        """A key, as entries are named by it."""
        return self._seal.named(key)

    async def get(self, key: str) -> tuple[CachedAnswer | None, str]:
        """The answer to exactly this request, and the epoch in which there was none."""
        value, epoch = await self._redis.mget(self._exact + key, EPOCH)
        return (self._load(value, key) if value else None), _text(epoch or "0")

    async def gave(self, request_id: str, given: Given) -> None:
        """Remember which entry a request was given, or has led to."""
        await self._redis.set(self._given(request_id), json.dumps(given.as_dict()), ex=GIVEN_SECONDS)

    async def take_given(self, request_id: str, key_id: str) -> Given | None:
        """What was given for a request of this key's, once."""
        value = await self._redis.get(self._given(request_id))
        given = None if value is None else Given.of(json.loads(value))
        if given is None or given.key_id != key_id or not await self._redis.unlink(self._given(request_id)):
            return None
        return given

    def _given(self, request_id: str) -> str:
        return f"gq:given:{request_id}"

    async def used(self, entry: str, answer: CachedAnswer) -> None:
        """It served once more: it is worth more room."""
        size = size_of(json.dumps(asdict(answer)), "", None)
        await self._touch(keys=[self._worth, self._clock], args=[entry, worth_of(answer, size)])

    def _load(self, value: bytes | str, entry: str) -> CachedAnswer | None:
        """A kept answer; None for one that is none: whoever put it there, it is not served."""
        try:
            return CachedAnswer(**json.loads(self._seal.open(_text(value), entry)))
        except (Unreadable, ValueError, TypeError) as error:
            logger.warning("a kept answer cannot be read: %s", error)
            return None


class CacheStore(ExactStore):
    """The same, and by their vectors, which are by one embedder."""

    def __init__(self, redis: Redis, dimensions: int, embedder: str, seal: Open) -> None:
        super().__init__(redis, seal)
        self._all_ours = f"{SEMANTIC}{LAYOUT}:{seal.name}:"
        self.name = f"{self._all_ours}{embedder}"
        self._entry = f"{self.name}:entry:"
        self._events = f"{self.name}:events"
        self._put, self._drop, self._trim, self._move = (
            redis.register_script(script) for script in (PUT, DROP, TRIM, MOVE)
        )
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
            if float(fields["expires_at"]) >= now and (query := self._query(entry, fields)) is not None
        ]

    async def answers(self, entries: Sequence[str]) -> dict[str, CachedAnswer]:
        """Those of these entries that are still there."""
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hmget(self._entry + entry, "answer", *SURROUNDINGS)
        answers: dict[str, CachedAnswer] = {}
        for entry, (value, *around) in zip(entries, await pipeline.execute(), strict=True):
            fields = dict(zip(SURROUNDINGS, (_text(one or "") for one in around), strict=True))
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
            await self._redis.sadd(self._resting_on(kept.scope, kept.tag), kept.key)
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
        return [_text(entry) for entry in await self._redis.smembers(self._resting_on(scope, tag))]

    def _resting_on(self, scope: str, tag: str) -> str:
        return f"{self._book}:tag:{hashlib.blake2b(f'{scope}:{tag}'.encode(), digest_size=16).hexdigest()}"

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
        answer, query = self._load(fields["answer"], _place(entry, fields)), self._query(entry, fields)
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
        return [entry for entry, its in zip(entries, found, strict=True) if its and _text(its) == scope]

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
            batch.append(_text(entry))
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
        query = self._query(entry, fields) if fields else ""
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
        return body, {name: _text(value) for name, value in zip(names, values, strict=True) if value}, int(left)

    async def note(self, events: Sequence[Event], by: str) -> None:
        """Keep what this replica has learned, for all others and the next start; the oldest goes."""
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            said = {"event": json.dumps(event), "by": by}
            pipeline.xadd(self._events, said, maxlen=KEPT_EVENTS, approximate=True)  # type: ignore[arg-type]
        await pipeline.execute()

    async def events(self, after: str = "0") -> list[tuple[str, str, Event]]:
        """What was learned after that one, the oldest first: its place, the replica, and what."""
        return await self._events_of(self.name, after)

    async def _events_of(self, index: str, after: str = "0") -> list[tuple[str, str, Event]]:
        begin = "-" if after == "0" else f"({after}"
        found: Any = await self._redis.xrange(f"{index}:events", min=begin)
        events = []
        for place, fields in found:
            try:
                event = json.loads(_text(fields[b"event"]))
            except (ValueError, KeyError):
                event = {}  # What nobody can read says nothing, and is not read again.
            events.append((_text(place), _text(fields.get(b"by", b"")), event))
        return events

    async def ping(self) -> None:
        await self._redis.ping()

    async def discard_strangers(self) -> int:
        """Delete what another key has sealed, or none, and what another version has kept: nobody can read it.
        Returns how many names that were."""
        for name in await self._indexes():
            if not name.startswith(self._all_ours):
                await self._redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]
        deleted, batch = 0, list[bytes]()
        ours = tuple(name.encode() for name in (self._exact, self._all_ours, f"{self._book}:", EPOCH))
        for pattern in (f"{EXACT}*", f"{SEMANTIC}*", "gq:cache:*"):
            async for name in self._redis.scan_iter(pattern, count=BATCH):
                if not name.startswith(ours):
                    batch.append(name)
        for begin in range(0, len(batch), BATCH):
            deleted += int(await self._redis.unlink(*batch[begin : begin + BATCH]))
        return deleted

    async def remove(self) -> None:
        """Everything that is of this store, its index and books too."""
        await self.clear()
        self._indexed = False
        await self._ensure_index()
        await self._redis.execute_command("FT.DROPINDEX", self.name)  # type: ignore[no-untyped-call]
        books = [name async for name in self._redis.scan_iter(f"{self._book}:*", count=BATCH)]
        await self._redis.unlink(self._events, *books)
        self._indexed = False

    async def move_here(
        self, embed: Callable[[str], Awaitable[bytes]], refused: Callable[[Event], str | None]
    ) -> int:
        """Give what another embedder has found a vector of this one's: its index is gone afterwards. `refused`:
        the entry that an event speaks against, which is not taken along (whom it was refused to cannot be told
        without the old vectors). Returns how many entries came."""
        moved = 0
        for name in await self._indexes():
            if name == self.name or not name.startswith(self._all_ours):
                continue
            bad = {refused(event) for _, _, event in await self._events_of(name)}
            async for key in self._redis.scan_iter(f"{name}:entry:*", count=BATCH):
                entry = _text(key).removeprefix(f"{name}:entry:")
                fields = {_text(part): value for part, value in (await self._redis.hgetall(key)).items()}
                around = {name: _text(fields.get(name, "")) for name in ("query", *SURROUNDINGS)}
                query = self._query(entry, around)
                if entry not in bad and query:
                    names = [key, self._entry + entry, self._sizes]
                    moved += int(await self._move(keys=names, args=[entry, await embed(query)]))
                await self._redis.unlink(key)
            await self._redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]
            await self._redis.unlink(f"{name}:events")
        return moved

    async def _indexes(self) -> list[str]:
        """Of every cache that has been in this Redis."""
        names = await self._redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]
        return [_text(name) for name in names if _text(name).startswith(SEMANTIC)]

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

    def _query(self, entry: str, fields: dict[str, str]) -> str | None:
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
