"""The cache's entries by their keys, in Redis; and which of them a request was given."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from deployments.cache.answer import CachedAnswer
from deployments.cache.names import EPOCH, Names, as_text
from deployments.cache.seal import Open, Unreadable
from deployments.cache.space import TOUCH, size_of, worth_of
from deployments.router.decision import Given

logger = logging.getLogger("ray.serve")

GIVEN_SECONDS = 86_400
"""So long a thumbs-down finds the entry that it is about."""


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


class ExactStore:
    """Entries of one Redis by their keys. Methods raise `RedisError` where it is away."""

    def __init__(self, redis: Redis, seal: Open, names: Names | None = None) -> None:
        self._redis, self._seal = redis, seal
        self.names = names or Names(seal.name)
        self._exact = self.names.exact
        self._worth, self._clock = self.names.book("worth"), self.names.book("clock")
        self._touch = redis.register_script(TOUCH)

    def named(self, key: str) -> str:
        """A key, as entries are named by it."""
        return self._seal.named(key)

    async def get(self, key: str) -> tuple[CachedAnswer | None, str]:
        """The answer to exactly this request, and the epoch in which there was none."""
        value, epoch = await self._redis.mget(self._exact + key, EPOCH)
        return (self._load(value, key) if value else None), as_text(epoch or "0")

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
            return CachedAnswer(**json.loads(self._seal.open(as_text(value), entry)))
        except (Unreadable, ValueError, TypeError) as error:
            logger.warning("a kept answer cannot be read: %s", error)
            return None
