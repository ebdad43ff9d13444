"""The books of `book.py` in Redis, for all Gateways: each step is one script, so that no two see the same room.

Nothing here expires, because a Redis that runs full throws out first what has a time to live. What an hour has
made wrong (a Redis of yesterday, or an empty one) is put right from the Ledger: see `budgets.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis

from deployments.budgets.book import BUSY_SECONDS, LEASE_SECONDS, Book, Cause, Standing
from deployments.budgets.limits import PERIODS, Amount, KeyLimits, Period, period_end, period_name
from deployments.cache.names import as_text

_COMMON = """
local book, leases = unpack(KEYS)
local now, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local periods = {'day', 'week', 'month'}

local function spent_of(place)
  local period, current = periods[place], ARGV[2 + place]
  local name, usd = unpack(redis.call('HMGET', book, period, period .. '_usd'))
  if not name then return nil end
  if name < current then
    redis.call('HSET', book, period, current, period .. '_usd', '0')
    return 0
  end
  return tonumber(usd)
end

local function fill(bucket, most)
  local level, at = unpack(redis.call('HMGET', book, bucket, bucket .. '_at'))
  level = math.min(most, tonumber(level or most) + math.max(0, now - tonumber(at or 0)) * most / 60)
  return level
end

local function keep(bucket, level)
  redis.call('HSET', book, bucket, string.format('%.17g', level), bucket .. '_at', ARGV[1])
end

local function text(number)
  if not number then return '' end
  return string.format('%.17g', number)
end
"""

RESERVE = (
    _COMMON
    + """
local id, tokens, usd = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local asked, read, concurrent = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local held, count = 0, 0
local all = redis.call('HGETALL', leases)
for at = 1, #all, 2 do
  local ends, _, costs = string.match(all[at + 1], '^(%S+) (%S+) (%S+)$')
  ends = tonumber(ends)
  if now < ends and ends <= now + 2 * lease then
    held, count = held + tonumber(costs), count + 1
  else
    redis.call('HDEL', leases, all[at])
  end
end
local spent = {spent_of(1), spent_of(2), spent_of(3)}
local requests_left = asked and fill('requests', asked)
local tokens_left = read and fill('tokens', read)
if asked then keep('requests', requests_left) end
if read then keep('tokens', tokens_left) end

local refused, wait = '', 0
local function refuse(why, seconds)
  if refused == '' then refused, wait = why, seconds end
end
if concurrent and count >= concurrent then refuse('concurrent', tonumber(ARGV[12])) end
for place = 1, 3 do
  local budget = tonumber(ARGV[12 + place])
  if budget then
    local known = spent[place] or 0
    if known >= budget then refuse(periods[place], tonumber(ARGV[15 + place]))
    elseif count > 0 and known + held + usd > budget then refuse(periods[place], tonumber(ARGV[12])) end
  end
end
if asked and requests_left < 1 then refuse('requests', (1 - requests_left) * 60 / asked) end
if read then
  local needed = math.min(tokens, read)
  if tokens_left < needed then refuse('tokens', (needed - tokens_left) * 60 / read) end
end
if refused == '' then
  if asked then requests_left = requests_left - 1; keep('requests', requests_left) end
  if read then tokens_left = tokens_left - tokens; keep('tokens', tokens_left) end
  redis.call('HSET', leases, id, text(now + lease) .. ' ' .. ARGV[7] .. ' ' .. ARGV[8])
end
local told = {refused, text(wait), text(requests_left), text(tokens_left)}
for place = 1, 3 do told[4 + place] = text(spent[place]) end
return told
"""
)

SETTLE = (
    _COMMON
    + """
local id, tokens, usd, read = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local held = redis.call('HGET', leases, id)
redis.call('HDEL', leases, id)
if read then
  local back = held and tonumber(string.match(held, '^%S+ (%S+)')) or tokens
  keep('tokens', math.min(read, fill('tokens', read) + back - tokens))
end
for place = 1, 3 do
  if spent_of(place) then redis.call('HINCRBYFLOAT', book, periods[place] .. '_usd', ARGV[8]) end
end
return 1
"""
)

KNOWN = (
    _COMMON
    + """
for place = 1, 3 do
  local usd = tonumber(ARGV[5 + place])
  if usd then
    local known = spent_of(place)
    if not known then
      redis.call('HSET', book, periods[place], ARGV[2 + place], periods[place] .. '_usd', text(usd))
    elseif usd > known then
      redis.call('HSET', book, periods[place] .. '_usd', text(usd))
    end
  end
end
return 1
"""
)


class SharedBooks:
    """The books of all keys, in one Redis. Methods raise `RedisError` where it is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reserve, self._settle, self._known = (
            redis.register_script(script) for script in (RESERVE, SETTLE, KNOWN)
        )

    async def reserve(self, key_id: str, request_id: str, most: Amount, limits: KeyLimits, now: float) -> Standing:
        """As `Book.reserve`."""
        budgets = limits.budgets
        told: list[bytes] = await self._reserve(
            keys=_keys(key_id),
            args=[
                *_now(now),
                request_id,
                most.tokens,
                most.usd,
                *_given((limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)),
                BUSY_SECONDS,
                *_given([budgets.get(period) for period in PERIODS]),
                *(period_end(period, now) - now for period in PERIODS),
            ],
        )
        refused, wait, requests, tokens, *spent = (one.decode() for one in told)
        known: dict[Period, float] = {
            period: float(usd) for period, usd in zip(PERIODS, spent, strict=True) if usd
        }
        return Standing(
            cast(Cause, refused) if refused else None,
            float(wait),
            float(requests) if requests else None,
            float(tokens) if tokens else None,
            known,
            tuple(period for period in budgets if period not in known),
        )

    async def read(self, key_id: str) -> Book:
        """One key's book as it is now."""
        said, leases = await asyncio.gather(*(self._all_of(key) for key in _keys(key_id)))
        book = Book()
        for name, bucket in (("requests", book.requests), ("tokens", book.tokens)):
            if name in said:
                bucket.level, bucket.at = float(said[name]), float(said[f"{name}_at"])
        for period in PERIODS:
            if period in said:
                book.spent[period] = (said[period], float(said[f"{period}_usd"]))
        for request_id, lease in leases.items():
            ends, tokens, usd = map(float, lease.split())
            book.leases[request_id] = (ends, Amount(tokens, usd))
        return book

    async def _all_of(self, key: str) -> dict[str, str]:
        found = await self._redis.hgetall(key)
        return {as_text(name): as_text(value) for name, value in found.items()}

    async def settle(self, key_id: str, request_id: str, took: Amount, limits: KeyLimits, now: float) -> None:
        """As `Book.settle`."""
        read = _given([limits.tokens_per_minute])
        await self._settle(keys=_keys(key_id), args=[*_now(now), request_id, took.tokens, took.usd, *read])

    async def renew(self, key_id: str, held: Mapping[str, Amount], now: float) -> None:
        """As `Book.renew`."""
        ends = now + LEASE_SECONDS
        kept: dict[Any, Any] = {
            request_id: f"{ends!r} {most.tokens!r} {most.usd!r}" for request_id, most in held.items()
        }
        await self._redis.hset(_keys(key_id)[1], mapping=kept)

    async def known(self, key_id: str, spent: Mapping[Period, float], now: float) -> None:
        """As `Book.known`."""
        told = _given([spent.get(period) for period in PERIODS])
        await self._known(keys=_keys(key_id), args=[*_now(now), *told])


def _keys(key_id: str) -> list[str]:
    return [f"gq:budget:{{{key_id}}}", f"gq:budget:{{{key_id}}}:leases"]


def _now(now: float) -> list[Any]:
    return [repr(now), repr(LEASE_SECONDS), *(period_name(period, now) for period in PERIODS)]


def _given(numbers: Sequence[float | None]) -> list[str]:
    """As a script reads them: what is not given is no number."""
    return ["" if number is None else repr(number) for number in numbers]
