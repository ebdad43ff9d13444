"""The Ledger's tables in PostgreSQL: migrations at start, rows in batches, each row once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg

from deployments.ledger.days import day_of, drop_before, ensure
from deployments.ledger.keeping import HASHED, QUERY_CHARS
from deployments.ledger.opinions import COLUMNS as OPINIONS
from deployments.ledger.opinions import TABLE

MIGRATIONS = Path(__file__).parent / "migrations"
COLUMNS = (
    "request_id",
    "at",
    "key_id",
    "user",
    "session",
    "query",
    "requested",
    "device",
    "variant",
    "trace",
    "cache",
    "cache_distance",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "ttft_ms",
    "latency_ms",
    "cost_usd",
    "energy_wh",
    "electricity_usd",
    "saved_usd",
    "confidence",
    "escalations",
    "finish_reason",
    "status",
    "error",
)
QUERIES = "queries"
TABLES: dict[str, tuple[str, ...]] = {QUERIES: COLUMNS, **OPINIONS}
"""Each table's columns."""

UNIQUE = dict.fromkeys(OPINIONS, "id") | {QUERIES: "request_id, at"}
"""What a row is known by. (PostgreSQL wants a partition's day in it; a row that is sent twice has one moment.)"""

DOCUMENTS = frozenset({"trace", "messages"})
"""Columns of JSON."""

LABELLED = """
with said as (
    select f.request_id, f.at, q.variant, (case f.rating when 'up' then 1.0 else 0.0 end) as correct
    from feedback f join queries q on q.request_id = f.request_id and q.key_id = f.key_id
    union all
    select request_id, at, variant, agreement from shadows where other not like 'ft:%'
)
select q.query, said.variant, q.trace ->> 'task' as task, said.correct,
    (select (c ->> 'correct')::float from jsonb_array_elements(q.trace -> 'candidates') c
     where c ->> 'variant' = said.variant limit 1) as expected
from said join queries q on q.request_id = said.request_id
where said.variant is not null and said.variant not like 'ft:%' and q.query <> '' and q.query not like $1 || '%'
order by said.at
"""

MOST_ASKED = """
select query from queries
where key_id = $1 and status = 200 and cache <> 'bypass' and query <> '' and char_length(query) < $3
    and query not like $4 || '%'
group by query order by count(*) desc, max(at) desc limit $2
"""

EXAMPLES = """
select distinct on (request_id) request_id, at, key_id, variant, rating, messages, answer, correction
from examples where request_id > $1 order by request_id, at desc, id limit $2
"""

NEVER_TAKEN = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
)
"""What a row raises that will be no better tomorrow."""


MIGRATION_SECONDS = 3600.0

SETTINGS = {"temp_buffers": "800kB"}
"""Of each connection. A batch's rows are staged in a temporary table, in pages not used before, and PostgreSQL
keeps up to this much of them (8 MiB, unset)."""


class Refused(Exception):
    """A row that PostgreSQL will never take: too large a number, a missing field, a table of another version."""


_LOCK = 0x67717765  # any number, the same for all who migrate


class LedgerStore:
    """One connection pool. Methods raise `asyncpg` and `OSError` where PostgreSQL is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._days: set[date] = set()
        """That have a partition."""

    async def connect(self) -> None:
        """Open the pool and bring the tables up to date."""
        if self._pool is None:
            pool = await asyncpg.create_pool(
                self._url, min_size=1, max_size=2, timeout=5, command_timeout=30, server_settings=SETTINGS
            )
            assert pool is not None
            try:
                async with pool.acquire() as connection:
                    await migrate(connection)
            except BaseException:
                pool.terminate()
                raise
            self._pool = pool

    async def insert(self, rows: Sequence[dict[str, Any]]) -> int:
        """Copy rows in, each to its table; those that are there already are left out. Returns how many were
        new. Raises `Refused` for a row that PostgreSQL will never take: then none of these is in."""
        try:
            return await self._inserted(rows)
        except Refused as error:
            if not isinstance(error.__cause__, asyncpg.CheckViolationError) or not self._days:
                raise
            # A day's partition may be gone that was there (another Ledger's retention, a restored copy).
            self._days.clear()
            return await self._inserted(rows)

    async def _inserted(self, rows: Sequence[dict[str, Any]]) -> int:
        new = 0
        try:
            days = {day_of(row["at"]) for row in rows if row.get(TABLE, QUERIES) == QUERIES}
            await self._ensure(days)
        except NEVER_TAKEN as error:
            raise Refused(f"{QUERIES}: {error}") from error
        async with self.pool.acquire() as connection, connection.transaction():
            for table, columns in TABLES.items():
                mine = [row for row in rows if row.get(TABLE, QUERIES) == table]
                if mine:
                    try:
                        values = [_values(row, columns) for row in mine]
                        new += await _copy(connection, table, columns, values)
                    except NEVER_TAKEN as error:
                        raise Refused(f"{table}: {error}") from error
            if strangers := {str(row[TABLE]) for row in rows if row.get(TABLE, QUERIES) not in TABLES}:
                raise Refused(f"there is no table {', '.join(sorted(strangers))}")
        return new

    async def _ensure(self, days: set[date]) -> None:
        """In a transaction of its own: what comes after may be refused, and the days are there all the same."""
        if new := days - self._days:
            async with self.pool.acquire() as connection:
                await ensure(connection, new)
            self._days |= new

    async def forget_before(self, first: date) -> list[str]:
        """Drop the query log's days before this one, and their examples; the days' partitions' names."""
        self._days = {day for day in self._days if day >= first}
        async with self.pool.acquire() as connection:
            begin = datetime(first.year, first.month, first.day, tzinfo=UTC)
            await connection.execute("delete from examples where at < $1", begin)
            return await drop_before(connection, first)

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """Connections, for what `reports` asks."""
        if self._pool is None:
            raise OSError("PostgreSQL was not reached yet")
        return self._pool

    async def count(self) -> int:
        """Rows in the query log."""
        return int(await self.pool.fetchval("select count(*) from queries"))

    async def labelled(self) -> list[dict[str, Any]]:
        """Questions with what was said of their answers: `query`, `variant`, `task`, `correct` (0 to 1),
        `expected` (P(right) as it was thought then, or None). Feedback counts only from who has asked."""
        return [dict(record) for record in await self.pool.fetch(LABELLED, HASHED)]

    async def most_asked(self, key_id: str, count: int) -> list[str]:
        """The questions of a key that were answered most often, and may be kept; whole ones."""
        return [
            record["query"] for record in await self.pool.fetch(MOST_ASKED, key_id, count, QUERY_CHARS, HASHED)
        ]

    async def examples(self, after: str, count: int) -> list[dict[str, Any]]:
        """Answers that were rated, by request id, from behind this one on; what was said of each last."""
        found = [dict(record) for record in await self.pool.fetch(EXAMPLES, after, count)]
        return [{**row, "at": row["at"].timestamp(), "messages": json.loads(row["messages"])} for row in found]

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None


async def _copy(connection: Any, table: str, columns: Sequence[str], values: list[tuple[Any, ...]]) -> int:
    names, incoming = ", ".join(f'"{column}"' for column in columns), f"incoming_{table}"
    # One for each connection: one for each batch would let the catalog, and what a connection knows of it, grow.
    create = f"create temporary table if not exists {incoming} (like {table} including defaults)"
    await connection.execute(f"{create} on commit delete rows")
    await connection.copy_records_to_table(incoming, records=values, columns=list(columns))
    insert = f"insert into {table} ({names}) select {names} from {incoming}"  # noqa: S608
    status: str = await connection.execute(f"{insert} on conflict ({UNIQUE[table]}) do nothing")
    return int(status.rsplit(" ", 1)[-1])


def _values(row: dict[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    at = datetime.fromtimestamp(row["at"], UTC)
    return tuple(
        at if column == "at" else json.dumps(row[column]) if column in DOCUMENTS else row.get(column)
        for column in columns
    )


async def migrate(connection: Any) -> None:
    """Apply the SQL files that have not been applied, in order, one migrator at a time."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "create table if not exists migrations (name text primary key, at timestamptz default now())"
        )
        done = {record["name"] for record in await connection.fetch("select name from migrations")}
        for path in sorted(MIGRATIONS.glob("*.sql")):
            if path.name not in done:
                # (An index over millions of rows takes its time.)
                await connection.execute(path.read_text(), timeout=MIGRATION_SECONDS)
                await connection.execute("insert into migrations (name) values ($1)", path.name)
