"""What was in Redis before a cache came: entries of another embedder are given new vectors, and what nobody can
read goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from deployments.cache.event_log import EventLog
from deployments.cache.experience import Event
from deployments.cache.names import BOOKS, EPOCH, EXACT, SEMANTIC, as_text, entries_of, events_of
from deployments.cache.space import MOVE
from deployments.cache.store import BATCH, SURROUNDINGS, CacheStore


class Arrival:
    """Of one store. Methods raise `RedisError` where Redis is away."""

    def __init__(self, redis: Redis, store: CacheStore) -> None:
        self._redis, self._store, self._names = redis, store, store.names
        self._move = redis.register_script(MOVE)

    async def discard_strangers(self) -> int:
        """Delete what another key has sealed, or none, and what another version has kept: nobody can read it.
        Returns how many names that were."""
        for name in await self._indexes():
            if not name.startswith(self._names.indexes):
                await self._redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]
        deleted, batch = 0, list[bytes]()
        ours = tuple(name.encode() for name in (self._names.exact, self._names.indexes, self._names.books, EPOCH))
        for pattern in (f"{EXACT}*", f"{SEMANTIC}*", f"{BOOKS}*"):
            async for name in self._redis.scan_iter(pattern, count=BATCH):
                if not name.startswith(ours):
                    batch.append(name)
        for begin in range(0, len(batch), BATCH):
            deleted += int(await self._redis.unlink(*batch[begin : begin + BATCH]))
        return deleted

    async def move_here(
        self, embed: Callable[[str], Awaitable[bytes]], refused: Callable[[Event], str | None]
    ) -> int:
        """Give what another embedder has found a vector of this one's: its index is gone afterwards. `refused`:
        the entry that an event speaks against, which is not taken along (whom it was refused to cannot be told
        without the old vectors). Returns how many entries came."""
        moved = 0
        for name in await self._indexes():
            if name == self._names.index or not name.startswith(self._names.indexes):
                continue
            bad = {refused(event) for _, _, event in await EventLog(self._redis, name).events()}
            async for key in self._redis.scan_iter(f"{entries_of(name)}*", count=BATCH):
                entry = as_text(key).removeprefix(entries_of(name))
                fields = {as_text(part): value for part, value in (await self._redis.hgetall(key)).items()}
                around = {name: as_text(fields.get(name, "")) for name in ("query", *SURROUNDINGS)}
                query = self._store.question_of(entry, around)
                if entry not in bad and query:
                    names = [key, self._names.similar + entry, self._names.book("sizes")]
                    moved += int(await self._move(keys=names, args=[entry, await embed(query)]))
                await self._redis.unlink(key)
            await self._redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]
            await self._redis.unlink(events_of(name))
        return moved

    async def _indexes(self) -> list[str]:
        """Of every cache that has been in this Redis."""
        names = await self._redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]
        return [as_text(name) for name in names if as_text(name).startswith(SEMANTIC)]
