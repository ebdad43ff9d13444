"""What was learned, as a stream of Redis: heard by every replica, read again at the next start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from deployments.cache.experience import Event
from deployments.cache.names import as_text, events_of

KEPT_EVENTS = 40_000


class EventLog:
    """Of one index. Methods raise `RedisError` where Redis is away."""

    def __init__(self, redis: Redis, index: str) -> None:
        self._redis, self._stream = redis, events_of(index)

    async def note(self, events: Sequence[Event], by: str) -> None:
        """Keep what this replica has learned, for all others and the next start; the oldest goes."""
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            said = {"event": json.dumps(event), "by": by}
            pipeline.xadd(self._stream, said, maxlen=KEPT_EVENTS, approximate=True)  # type: ignore[arg-type]
        await pipeline.execute()

    async def events(self, after: str = "0") -> list[tuple[str, str, Event]]:
        """What was learned after that one, the oldest first: its place, the replica, and what."""
        begin = "-" if after == "0" else f"({after}"
        found: Any = await self._redis.xrange(self._stream, min=begin)
        events = []
        for place, fields in found:
            try:
                event = json.loads(as_text(fields[b"event"]))
            except (ValueError, KeyError):
                event = {}  # What nobody can read says nothing, and is not read again.
            events.append((as_text(place), as_text(fields.get(b"by", b"")), event))
        return events
