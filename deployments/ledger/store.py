"""The Ledger's tables in PostgreSQL: migrations at start, rows in batches, each row once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

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
    "finish_reason",
    "status",
    "error",
)
_LOCK = 0x67717765  # any number, the same for all who migrate


class LedgerStore:
    """One connection pool. Methods raise `asyncpg` and `OSError` where PostgreSQL is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def connect(self) -> None:
        """Open the pool and bring the tables up to date."""
        if self._pool is None:
            pool = await asyncpg.create_pool(self._url, min_size=1, max_size=2, timeout=5, command_timeout=30)
            assert pool is not None
            try:
                async with pool.acquire() as connection:
                    await _migrate(connection)
            except BaseException:
                pool.terminate()
                raise
            self._pool = pool

    async def insert(self, rows: Sequence[dict[str, Any]]) -> int:
        """Copy rows in; those whose request id is there already are left out. Returns how many were new."""
        assert self._pool is not None
        values = [_values(row) for row in rows]
        names = ", ".join(f'"{column}"' for column in COLUMNS)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "create temporary table incoming (like queries including defaults) on commit drop"
            )
            await connection.copy_records_to_table("incoming", records=values, columns=list(COLUMNS))
            insert = f"insert into queries ({names}) select {names} from incoming"  # noqa: S608
            status: str = await connection.execute(f"{insert} on conflict (request_id) do nothing")
        return int(status.rsplit(" ", 1)[-1])

    async def count(self) -> int:
        """Rows in the query log."""
        assert self._pool is not None
        return int(await self._pool.fetchval("select count(*) from queries"))

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None


def _values(row: dict[str, Any]) -> tuple[Any, ...]:
    at = datetime.fromtimestamp(row["at"], UTC)
    return tuple(
        at if column == "at" else json.dumps(row[column]) if column == "trace" else row.get(column)
        for column in COLUMNS
    )


async def _migrate(connection: Any) -> None:
    """Apply the SQL files that have not been applied, in order, one migrator at a time."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "create table if not exists migrations (name text primary key, at timestamptz default now())"
        )
        done = {record["name"] for record in await connection.fetch("select name from migrations")}
        for path in sorted(MIGRATIONS.glob("*.sql")):
            if path.name not in done:
                await connection.execute(path.read_text())
                await connection.execute("insert into migrations (name) values ($1)", path.name)
