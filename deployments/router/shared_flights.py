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
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from deployments.cache.patience import FAILURES
from deployments.cache.seal import Open, Unreadable
from deployments.contract import ChatError, ErrorKind, engine_gone
from deployments.router.decision import Item, from_json, to_json
from deployments.timing import within

logger = logging.getLogger("ray.serve")

LEASE_MS = 2000
"""So long after its owner's death an answer may be taken over; it is renewed four times in this time."""

READ_MS = 250
"""How long a reader waits at once before it looks whether the owner is still there."""

KEPT_MS = 10_000
"""So long what was said is kept after the end, for slow readers."""

SAY_SECONDS = 0.2
"""So long a chunk waits at most for the others to be told."""

SAY = """
local lease, said = unpack(KEYS)
if redis.call('GET', lease) ~= ARGV[1] then return 0 end
local there = redis.call('XLEN', said)
if there < tonumber(ARGV[4]) then return 0 end
for place = 5 + there - ARGV[4], #ARGV do redis.call('XADD', said, '*', 'said', ARGV[place]) end
redis.call('PEXPIRE', said, ARGV[3])
if ARGV[2] == 'over' then redis.call('DEL', lease) else redis.call('PEXPIRE', lease, ARGV[2]) end
return 1
"""
"""Only while the lease is one's own: a Router that was held up for long does not speak into its heir's words. The
messages are counted: one that was written though nobody heard of it is not written twice, and none follows one
that is missing."""

TAKE = """
local lease, said = unpack(KEYS)
local there = redis.call('GET', lease)
if there then return there end
if redis.call('XLEN', said) ~= tonumber(ARGV[2]) then return '' end
redis.call('SET', lease, ARGV[1], 'PX', ARGV[3])
return 1
"""
"""The lease of an answer whose Router is gone, for a reader that has heard all that was said of it. Else whose it
is, or nothing: there is more to hear."""

Items = list[Item]
Answer = Callable[[Items], AsyncGenerator[Items, None]]
"""Makes the answer; given what was said of it before, it says the rest."""


@dataclass(frozen=True)
class _Lease:
    """`flight`: of which answer; `turn`: 0, or 1 for who has taken it over."""

    key: str
    flight: str
    turn: int
    owner: str

    @property
    def stream(self) -> str:
        return f"{self.key}:{self.flight}"

    def text(self) -> str:
        return f"{self.flight}:{self.turn}:{self.owner}"

    @classmethod
    def new(cls, key: str) -> _Lease:
        return cls(key, secrets.token_hex(8), 0, secrets.token_hex(4))

    @classmethod
    def read(cls, key: str, text: bytes) -> _Lease:
        flight, turn, owner = text.decode().split(":")
        return cls(key, flight, int(turn), owner)

    def heir(self, turn: int) -> _Lease:
        return _Lease(self.key, self.flight, turn, secrets.token_hex(4))


class _Telling:
    """What one Router tells the others while it has an answer made. What Redis does not take in time is told with
    the next; if that takes so long that the lease runs out, a reader goes on from what was told."""

    def __init__(self, redis: Redis, seal: Open, lease: _Lease, told: int) -> None:
        self._say = redis.register_script(SAY)
        self._seal, self._lease, self._told = seal, lease, told
        self._untold: list[str] = []
        self._not_before = 0.0
        self._silent = False
        self._one_at_a_time = asyncio.Lock()

    async def tell(self, message: dict[str, Any] | None, *, over: bool = False) -> None:
        """A message, or only that one is still there."""
        async with self._one_at_a_time:
            if self._silent:
                return
            if message is not None:
                self._untold.append(self._seal.close(json.dumps(message), self._place))
            if time.monotonic() < self._not_before and not over:
                return  # (Nobody's answer is held up again and again by a Redis that is slow.)
            lives = ("over", KEPT_MS) if over else (LEASE_MS, 10 * KEPT_MS)
            try:
                told = await within(
                    self._say(
                        keys=[self._lease.key, self._lease.stream],
                        args=[self._lease.text(), *lives, self._told, *self._untold],
                    ),
                    SAY_SECONDS,
                )
            except FAILURES as error:
                logger.warning("what is answered is not told to other Routers yet: %r", error)
                self._not_before = time.monotonic() + SAY_SECONDS
                return
            self._silent = not told
            self._told += len(self._untold)
            self._untold = []

    @property
    def _place(self) -> str:
        return place(self._lease.stream, self._told + len(self._untold))

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """The lease is renewed, also while nothing is said."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_MS / 4e3)
                await self.tell(None)

        task = asyncio.get_running_loop().create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class SharedFlights:
    """Of one Router among several over one Redis; what they tell each other is sealed as entries are."""

    def __init__(self, redis: Redis, seal: Open) -> None:
        self._redis, self._seal = redis, seal
        self._take = redis.register_script(TAKE)

    async def fly(self, name: str, answer: Answer, heard: Callable[[Item], Item]) -> AsyncGenerator[Items, None]:
        """The answer to the request of this name, made here or by another Router; `heard`: what another one's
        items are here. Raises what it raises."""
        lease = _Lease.new(f"gq:flight:{name}")
        try:
            there: Any = await within(
                self._redis.set(lease.key, lease.text(), nx=True, px=LEASE_MS, get=True), SAY_SECONDS
            )
        except FAILURES as error:
            logger.warning("Redis is away (%r): the same may be answered twice", error)
            steps = answer([])
        else:
            if there is None:
                steps = self._lead(lease, 0, answer, [])
            else:
                steps = self._follow(_Lease.read(lease.key, there), answer, heard)
        async with aclosing(steps):
            async for items in steps:
                yield items

    async def _lead(self, lease: _Lease, told: int, answer: Answer, said: Items) -> AsyncGenerator[Items, None]:
        """Have it answered, or the rest of it, and tell the others; `told`: how many messages there were
        before."""
        telling = _Telling(self._redis, self._seal, lease, told)
        async with telling.kept_alive():
            try:
                async with aclosing(answer(said)) as steps:
                    async for items in steps:
                        await telling.tell({"items": [to_json(item) for item in items]})
                        yield items
            except (asyncio.CancelledError, GeneratorExit):
                # Nobody listens here any more; elsewhere, somebody may.
                await asyncio.shield(telling.tell({"left": True}, over=True))
                raise
            except Exception as error:
                failure = error if isinstance(error, ChatError) else engine_gone("router")
                await telling.tell({"failed": failure.__reduce__()[1]}, over=True)
                raise
            await telling.tell({"over": True}, over=True)

    async def _follow(
        self, lease: _Lease, answer: Answer, heard: Callable[[Item], Item]
    ) -> AsyncGenerator[Items, None]:
        """Hear what another Router says; where it dies or falls silent, go on in its place. (What is more than
        text cannot be gone on with: that is a failure.)"""
        said: Items = []
        read, count = b"0", 0
        turn, left = lease.turn, False
        rest: AsyncGenerator[Items, None] | None = None
        while rest is None:
            try:
                # (Whether the owner lives is asked before what it said: its end is written before it goes.)
                owner: Any = await self._redis.get(lease.key)
                found = await self._redis.xread({lease.stream: read}, block=READ_MS)
                messages = [
                    self._opened(lease, count + n, fields) for n, (_, fields) in enumerate(_entries(found))
                ]
            except (*FAILURES, Unreadable, ValueError) as error:
                logger.warning("another Router's answer cannot be heard: %r", error)
                rest = answer(said)
                break
            for message in messages:
                if "over" in message:
                    return
                if "failed" in message:
                    raise _error(message["failed"])
                left = "left" in message
                items = [from_json(one) for one in message.get("items", ())]
                said += items
                if items:
                    yield [heard(item) for item in items]
            count += len(messages)
            read = _entries(found)[-1][0] if messages else read
            current = None if owner is None else _Lease.read(lease.key, owner)
            if current is not None and current.flight == lease.flight:
                # (Who has left in this very turn was still there when it was asked.)
                turn, left = current.turn, left and bool(messages)
            elif left or not messages:
                rest = await self._taken_over(lease, turn if left else turn + 1, count, answer, said)
        async with aclosing(rest):
            async for items in rest:
                yield items

    async def _taken_over(
        self, lease: _Lease, turn: int, told: int, answer: Answer, said: Items
    ) -> AsyncGenerator[Items, None] | None:
        """The rest of an answer whose Router has left (then it is the same turn) or died; None where another
        reader was faster. Raises `ChatError` where it has cost two their lives."""
        if turn > 1:
            raise engine_gone("router")
        heir = lease.heir(turn)
        try:
            there = await self._take(keys=[lease.key, lease.stream], args=[heir.text(), told, LEASE_MS])
        except FAILURES:
            return answer(said)
        if there == 1:
            logger.warning("an answer of another Router, which is gone, is gone on with here")
            return self._lead(heir, told, answer, said)
        # Another reader was faster; or the same is asked anew, which is none of this one's business.
        return None if not there or _Lease.read(lease.key, there).flight == lease.flight else answer(said)

    def _opened(self, lease: _Lease, number: int, fields: dict[bytes, bytes]) -> dict[str, Any]:
        return dict(json.loads(self._seal.open(fields[b"said"].decode(), place(lease.stream, number))))


def place(stream: str, number: int) -> str:
    """Where a message belongs, so that none can be moved."""
    return f"{stream}:{number}"


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
