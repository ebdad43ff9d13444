"""The same request, asked of several Routers at once: one of them has it answered, the others hear it through
Redis. Pure asyncio.

Who is first takes a lease and writes what is said into a stream of Redis; who comes later reads along. A lease
that is not renewed has lost its owner: the first reader that notices takes it over and goes on from what was said.
An answer that has cost two Routers their lives is not given to a third. Where Redis is away, each Router has its
own requests answered by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from deployments.cache.patience import FAILURES
from deployments.contract import ChatError, ErrorKind, engine_gone
from deployments.router.decision import Item, from_json, to_json

logger = logging.getLogger("ray.serve")

LEASE_MS = 2000
"""So long after its owner's death an answer may be taken over; it is renewed four times in this time."""

READ_MS = 250
"""How long a reader waits at once before it looks whether the owner is still there."""

KEPT_MS = 10_000
"""So long what was said is kept after the end, for slow readers."""

SAY = """
local lease, said = unpack(KEYS)
if redis.call('GET', lease) ~= ARGV[1] then return 0 end
for place = 4, #ARGV do redis.call('XADD', said, '*', 'said', ARGV[place]) end
redis.call('PEXPIRE', said, ARGV[3])
if ARGV[2] == 'over' then redis.call('DEL', lease) else redis.call('PEXPIRE', lease, ARGV[2]) end
return 1
"""
"""Only while the lease is one's own: a Router that was held up for long does not speak into its heir's words."""

Items = list[Item]
Answer = Callable[[Items], AsyncGenerator[Items, None]]
"""Makes the answer; given what was said of it before, it says the rest."""


@dataclass(frozen=True)
class _Lease:
    """`flight`: of which answer; `turn`: 0, or 1 for who has taken it over."""

    flight: str
    turn: int
    owner: str

    def text(self) -> str:
        return f"{self.flight}:{self.turn}:{self.owner}"

    @classmethod
    def read(cls, text: bytes) -> _Lease:
        flight, turn, owner = text.decode().split(":")
        return cls(flight, int(turn), owner)


class SharedFlights:
    """Of one Router among several over one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._say = redis.register_script(SAY)

    async def fly(self, name: str, answer: Answer, heard: Callable[[Item], Item]) -> AsyncGenerator[Items, None]:
        """The answer to the request of this name, made here or by another Router; `heard`: what another one's
        items are here. Raises what it raises."""
        lease_key = f"gq:flight:{name}"
        mine = _Lease(secrets.token_hex(8), 0, secrets.token_hex(4))
        try:
            there: Any = await self._redis.set(lease_key, mine.text(), nx=True, px=LEASE_MS, get=True)
        except FAILURES as error:
            logger.warning("Redis is away (%s): the same may be answered twice", error)
            steps = answer([])
        else:
            if there is None:
                steps = self._lead(lease_key, mine, answer([]))
            else:
                steps = self._follow(lease_key, _Lease.read(there), answer, heard)
        async with aclosing(steps):
            async for items in steps:
                yield items

    async def _lead(
        self, key: str, lease: _Lease, steps: AsyncGenerator[Items, None]
    ) -> AsyncGenerator[Items, None]:
        """Have it answered, and write it down."""
        async with aclosing(steps), self._kept_alive(key, lease):
            try:
                async for items in steps:
                    await self._says(key, lease, {"items": [to_json(item) for item in items]})
                    yield items
            except (asyncio.CancelledError, GeneratorExit):
                # Nobody listens here any more; elsewhere, somebody may.
                await asyncio.shield(self._says(key, lease, {"left": True}, over=True))
                raise
            except Exception as error:
                failure = error if isinstance(error, ChatError) else engine_gone("router")
                await self._says(key, lease, {"failed": failure.__reduce__()[1]}, over=True)
                raise
            await self._says(key, lease, {"over": True}, over=True)

    async def _says(self, key: str, lease: _Lease, said: dict[str, Any] | None, *, over: bool = False) -> None:
        """Tell the others, or only that one is still there."""
        words = [] if said is None else [json.dumps(said)]
        lives = ("over", KEPT_MS) if over else (LEASE_MS, 10 * KEPT_MS)
        try:
            await self._say(keys=[key, f"{key}:{lease.flight}"], args=[lease.text(), *lives, *words])
        except FAILURES as error:
            logger.warning("what is answered is not told to other Routers: %s", error)

    @asynccontextmanager
    async def _kept_alive(self, key: str, lease: _Lease) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_MS / 4e3)
                await self._says(key, lease, None)

        task = asyncio.get_running_loop().create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(
        self, key: str, lease: _Lease, answer: Answer, heard: Callable[[Item], Item]
    ) -> AsyncGenerator[Items, None]:
        """Hear what another Router says; where it dies, go on in its place."""
        said: Items = []
        place = b"0"
        turn, left = lease.turn, False
        while True:
            try:
                # (Whether the owner lives is asked before what it said: its end is written before it goes.)
                owner: Any = await self._redis.get(key)
                found = await self._redis.xread({f"{key}:{lease.flight}": place}, block=READ_MS)
            except FAILURES as error:
                raise engine_gone("cache") from error
            for read, fields in _entries(found):
                place = read
                message = json.loads(fields[b"said"])
                if "over" in message:
                    return
                if "failed" in message:
                    raise _error(message["failed"])
                left = "left" in message
                items = [from_json(one) for one in message.get("items", ())]
                said += items
                if items:
                    yield [heard(item) for item in items]
            current = None if owner is None else _Lease.read(owner)
            if current is not None and current.flight == lease.flight:
                turn = current.turn
                continue
            if found and not left:
                continue
            # Who has left on purpose is nobody's death.
            heir = _Lease(lease.flight, turn if left else turn + 1, secrets.token_hex(4))
            if heir.turn > 1 or current is not None:
                raise engine_gone("router")
            if not await self._redis.set(key, heir.text(), nx=True, px=LEASE_MS):
                continue  # Another reader was faster.
            left = False
            logger.warning("an answer of another Router, which is gone, is gone on with here")
            async with aclosing(self._lead(key, heir, answer(said))) as rest:
                async for items in rest:
                    yield items
            return


def _entries(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Of one stream, in the reply's form of RESP 2 (lists) or 3 (a map)."""
    if not found:
        return []
    streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]
    flat = next(iter(streams))
    # (RESP 3 wraps what was read of a stream once more.)
    return list(flat[0] if flat and isinstance(flat[0], list) else flat)


def _error(said: list[Any]) -> ChatError:
    message, status, kind, code, param, retry_after = said
    known: ErrorKind = kind
    return ChatError(message, status=status, kind=known, code=code, param=param, retry_after=retry_after)
