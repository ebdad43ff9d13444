"""How much the cache keeps: where there is too much, what is worth least goes first. Scripts for Redis.

An entry's worth is what it would cost to answer again (seconds), times how often it was used, over its size; and
what has not been used for long loses against what comes now (GreedyDual-Size-Frequency, Cherkasova 1998: to each
worth is added the worth of the last that had to go, as it was when this one was used last).

All counting is done in the same script as the change itself, so that a process that dies between leaves nothing
uncounted. What expires by itself is counted out later, by `DROP`.
"""

from __future__ import annotations

from deployments.cache.answer import CachedAnswer

OVERHEAD_BYTES = 700
"""Of an entry in Redis beside its texts and vector: names, the index's links, this very book-keeping."""

PINNED = 0
"""As a life in seconds: until it is forgotten."""

PUT = """
local epoch, exact, similar, worth, sizes, bytes, clock, pinned = unpack(KEYS)
if (redis.call('GET', epoch) or '0') ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > 0 and redis.call('SISMEMBER', pinned, ARGV[4]) == 1 then return 0 end
local body, seconds, entry, size, worthy = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
redis.call('SET', exact, body)
redis.call('DEL', similar)
if #ARGV > 6 then redis.call('HSET', similar, unpack(ARGV, 7)) end
redis.call('INCRBY', bytes, size - tonumber(redis.call('HGET', sizes, entry) or 0))
redis.call('HSET', sizes, entry, size)
if seconds > 0 then
  redis.call('EXPIRE', exact, seconds)
  redis.call('EXPIRE', similar, seconds)
  redis.call('ZADD', worth, tonumber(redis.call('GET', clock) or 0) + worthy, entry)
else
  redis.call('ZREM', worth, entry)
  redis.call('SADD', pinned, entry)
end
return 1
"""
"""Both forms of an entry, or none where the epoch is another one, or where a pinned one is there that this one is
not."""

TOUCH = """
local worth, clock = unpack(KEYS)
local before = redis.call('ZSCORE', worth, ARGV[1])
if not before then return 0 end
redis.call('ZADD', worth, math.max(tonumber(before), tonumber(redis.call('GET', clock) or 0)) + ARGV[2], ARGV[1])
return 1
"""
"""It was used once more."""

DROP = """
local worth, sizes, bytes, pinned = unpack(KEYS)
local there = 0
for place = 3, #ARGV do
  local entry = ARGV[place]
  if redis.call('UNLINK', ARGV[1] .. entry, ARGV[2] .. entry) > 0 then there = there + 1 end
  redis.call('DECRBY', bytes, tonumber(redis.call('HGET', sizes, entry) or 0))
  redis.call('HDEL', sizes, entry)
  redis.call('ZREM', worth, entry)
  redis.call('SREM', pinned, entry)
end
return there
"""
"""Entries, and their counts. Returns how many were there."""

TRIM = """
local worth, sizes, bytes, clock = unpack(KEYS)
local gone = 0
while gone < 1000 and tonumber(redis.call('GET', bytes) or 0) > tonumber(ARGV[3]) do
  local least = redis.call('ZPOPMIN', worth)
  if #least == 0 then break end
  redis.call('SET', clock, least[2])
  redis.call('UNLINK', ARGV[1] .. least[1], ARGV[2] .. least[1])
  redis.call('DECRBY', bytes, tonumber(redis.call('HGET', sizes, least[1]) or 0))
  redis.call('HDEL', sizes, least[1])
  gone = gone + 1
end
return gone
"""
"""As many as it takes, or a thousand at once: Redis answers nobody else meanwhile. Returns how many went."""

MOVE = """
local before, now, sizes = unpack(KEYS)
if redis.call('EXISTS', before) == 0 or redis.call('EXISTS', now) == 1 then return 0 end
if redis.call('HEXISTS', sizes, ARGV[1]) == 0 then return 0 end
redis.call('HSET', before, 'embedding', ARGV[2])
redis.call('RENAME', before, now)
return 1
"""
"""An entry under another name, with another embedding; its time stays. One that came anew meanwhile stays too,
and one that was forgotten meanwhile (it is on no book) does not come back."""


def size_of(body: str, query: str, embedding: bytes | None) -> int:
    """Bytes that an entry takes, roughly: its answer lies under its key and, with a vector, beside that too; the
    vector lies in the index once more."""
    if embedding is None:
        return OVERHEAD_BYTES + len(body)
    return OVERHEAD_BYTES + 2 * len(body) + len(query) + 2 * len(embedding)


def worth_of(answer: CachedAnswer, size: int) -> float:
    """What one use of it spares, by size: milliseconds per byte."""
    return 1e3 * max(answer.seconds, 0.01) / size
