"""What the Ledger says of its rows: usage by key, variant or day, one request whole, the acts of administration.

What the cache has asked for itself (`…-check`, `…-fresh`) is somebody's cost and nobody's question: it counts in
what was spent, not in how many were asked.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

import asyncpg

By = Literal["key", "variant", "day"]

_OWN = "(request_id like '%-check' or request_id like '%-fresh')"
_GROUPS: dict[By, str] = {
    "key": "key_id",
    "variant": "coalesce(variant, 'none')",
    "day": "to_char(at at time zone 'UTC', 'YYYY-MM-DD')",
}

USAGE = """
select {group} as name,
    count(*) filter (where not {own}) as requests,
    count(*) filter (where not {own} and status >= 400 and status <> 499) as failed,
    count(*) filter (where not {own} and cache in ('exact', 'semantic', 'coalesced')) as hits,
    coalesce(sum(prompt_tokens), 0) as prompt_tokens,
    coalesce(sum(completion_tokens), 0) as completion_tokens,
    coalesce(sum(cached_tokens), 0) as cached_tokens,
    coalesce(sum(cost_usd), 0) as cost_usd,
    coalesce(sum(energy_wh), 0) as energy_wh,
    coalesce(sum(electricity_usd), 0) as electricity_usd,
    coalesce(sum(saved_usd) filter (where not {own}), 0) as saved_usd,
    percentile_cont(0.5) within group (order by ttft_ms) filter (where not {own}) as ttft_ms_p50,
    percentile_cont(0.95) within group (order by latency_ms) filter (where not {own}) as latency_ms_p95
from queries where at >= $1 and at < $2 and ($3::text is null or key_id = $3)
group by 1 order by 1
"""

ONE = """
select q.*, coalesce((
    select jsonb_agg(
        jsonb_build_object('at', f.at, 'rating', f.rating, 'correction', f.correction, 'comment', f.comment)
        order by f.at)
    from feedback f where f.request_id = q.request_id and f.key_id = q.key_id), '[]'::jsonb) as feedback
from queries q where q.request_id = $1 and ($2::text is null or q.key_id = $2)
"""

# (Of several opinions on one answer the last counts. What came from the cache is the answer of its arm all the
# same: nothing is shared between the two.)
ARMS = """
with said as (
    select distinct on (f.request_id) f.request_id, f.key_id, f.rating from feedback f
    where f.at >= $3 order by f.request_id, f.at desc
)
select q.trace ->> 'arm' as arm,
    count(*) as requests,
    count(*) filter (where q.status >= 400 and q.status <> 499) as failed,
    count(*) filter (where s.rating = 'up') as up,
    count(*) filter (where s.rating in ('down', 'regenerate')) as down
from queries q left join said s on s.request_id = q.request_id and s.key_id = q.key_id
where q.at >= $3 and not {own}
    and (q.variant = $1 and q.trace ->> 'arm' = 'adapter' or q.variant = $2 and q.trace ->> 'arm' = 'base')
group by 1
"""

SHADOWED = "select count(*) as answers, avg(agreement) as agreement from shadows where other = $1 and at >= $2"


async def usage(
    pool: asyncpg.Pool[asyncpg.Record], by: By, since: datetime, until: datetime, key_id: str | None
) -> list[dict[str, Any]]:
    """A row for each key, variant or day (UTC) of this time; of one key, or of all."""
    statement = USAGE.format(group=_GROUPS[by], own=_OWN)
    return [dict(record) for record in await pool.fetch(statement, since, until, key_id)]


async def request(
    pool: asyncpg.Pool[asyncpg.Record], request_id: str, key_id: str | None
) -> dict[str, Any] | None:
    """All that is known of one request, its route and what was said of it; of one key, or of any. None where there
    is none."""
    record = await pool.fetchrow(ONE, request_id, key_id)
    if record is None:
        return None
    row = dict(record)
    for name in ("trace", "feedback"):
        row[name] = json.loads(row[name]) if isinstance(row[name], str) else row[name]
    row["at"] = row["at"].timestamp()
    return row


async def spent(pool: asyncpg.Pool[asyncpg.Record], key_id: str, since: datetime) -> float:
    """What a key's requests have cost since then, US dollars; the cache's own on its behalf included."""
    said = "select coalesce(sum(cost_usd), 0) from queries where key_id = $1 and at >= $2"
    return float(await pool.fetchval(said, key_id, since))


async def acts(pool: asyncpg.Pool[asyncpg.Record], count: int) -> list[dict[str, Any]]:
    """The last acts of administration, the newest first."""
    found = await pool.fetch("select at, key_id, act, status from audit order by at desc limit $1", count)
    return [{**dict(record), "at": record["at"].timestamp()} for record in found]


async def arms(
    pool: asyncpg.Pool[asyncpg.Record], model: str, base: str, since: datetime
) -> dict[str, dict[str, int]]:
    """What was asked of an adapter and of its base in its stead, and said of it, since then: by arm."""
    found = await pool.fetch(ARMS.format(own=_OWN.replace("request_id", "q.request_id")), model, base, since)
    return {record["arm"]: {name: number for name, number in record.items() if name != "arm"} for record in found}


async def shadowed(pool: asyncpg.Pool[asyncpg.Record], model: str, since: datetime) -> dict[str, Any]:
    """How often an adapter was asked unheard since then, and how far it agreed with its base: 0 to 1."""
    return next(dict(record) for record in await pool.fetch(SHADOWED, model, since))
