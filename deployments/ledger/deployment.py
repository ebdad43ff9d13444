"""The Ledger as a Serve deployment: drains the journals into PostgreSQL, off every request's path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from deployments.budgets.limits import Period
from deployments.contract import or_gone
from deployments.last_error import LastError
from deployments.ledger.days import Retention
from deployments.ledger.journal import (
    forget_refused,
    pending_bytes,
    read_batch,
    read_offset,
    refuse,
    remove_if_done,
    write_offset,
)
from deployments.ledger.reports import By, acts, arms, request, shadowed, spent, usage
from deployments.ledger.store import LedgerStore, Refused
from deployments.logs import said_of, trace_of
from deployments.metrics import Gauge
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

BATCH_ROWS = 500
IDLE_SECONDS = 0.5
RETRY_SECONDS = 2.0


AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Drain:
    """Copies journal files into the store, each row once: a batch is committed before its offset is
    remembered, and a row that comes twice is recognized by its request id."""

    def __init__(self, folder: Path, store: LedgerStore) -> None:
        self._folder = folder
        self._store = store
        self.rows = 0
        self.damaged = 0
        self.refused = 0

    async def once(self) -> int:
        """Copy what is there. Returns how many rows were new."""
        new = 0
        for path in sorted(self._folder.glob("*.journal")):
            offset = read_offset(path)
            while True:
                batch = read_batch(path, offset, BATCH_ROWS)
                if batch.end == offset:
                    break
                if batch.rows:
                    new += await self._insert(batch.rows)
                if batch.damaged:
                    logger.error("%d damaged journal lines in %s were left out", batch.damaged, path.name)
                    self.damaged += batch.damaged
                offset = batch.end
                write_offset(path, offset)
            remove_if_done(path, offset)
        self.rows += new
        return new

    async def _insert(self, rows: list[dict[str, Any]]) -> int:
        """One that is refused must hold up no other: it is kept apart, in clear, for a person to look at."""
        try:
            return await self._store.insert(rows)
        except Refused as error:
            if len(rows) == 1:
                # (PostgreSQL quotes the row, which holds a question.)
                reason = type(error.__cause__ or error).__name__
                kept = refuse(self._folder, rows[0], str(error))
                logger.error("a row was refused (%s) and is kept in %s", reason, kept.name)
                self.refused += 1
                return 0
        middle = len(rows) // 2
        return await self._insert(rows[:middle]) + await self._insert(rows[middle:])


@deployment
class Ledger:
    """Every query, in PostgreSQL. While that is away the journals grow; nothing is lost."""

    def __init__(self, url: str, folder: str, retention_days: int | None) -> None:
        self._folder = Path(folder)
        self._retention = Retention(retention_days)
        self._store = LedgerStore(url)
        self._drain = Drain(self._folder, self._store)
        self._error: str | None = None
        self._last_error, self._caught_up = LastError(), time.monotonic()
        self._lag = Gauge("groupqwen_ledger_pending_bytes", "Journal bytes that wait for PostgreSQL.")
        self._behind = Gauge("groupqwen_ledger_lag_seconds", "Since all that was written down was in PostgreSQL.")
        self._rows = Gauge("groupqwen_ledger_rows", "Rows that were copied since the Ledger's start.")
        self._left_out = Gauge("groupqwen_ledger_left_out", "Rows that were damaged or refused since its start.")
        self._draining = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            pause = IDLE_SECONDS
            try:
                await self._store.connect()
                await self._drain.once()
                await self._forget()
                self._error = None
            except AWAY as error:
                if self._error is None:
                    logger.warning("PostgreSQL is away (%s); rows wait in the journal", error)
                self._error = self._last_error.note(error)
                pause = RETRY_SECONDS
            except Exception as error:
                logger.error("the Ledger could not drain the journal\n%s", trace_of(error))
                self._error = self._last_error.note(said_of(error))
                pause = RETRY_SECONDS
            self._tell()
            await asyncio.sleep(pause)

    def _tell(self) -> None:
        if self._error is None:
            self._caught_up = time.monotonic()
        self._lag.set(pending_bytes(self._folder))
        self._behind.set(time.monotonic() - self._caught_up)
        self._rows.set(self._drain.rows)
        self._left_out.set(self._drain.damaged + self._drain.refused)

    async def _forget(self) -> None:
        first = self._retention.first_kept()
        if first is None:
            return
        # (The files need no PostgreSQL.)
        if gone := [*forget_refused(self._folder, first), *await self._store.forget_before(first)]:
            logger.warning("the query log's days before %s are deleted, as the profile wants: %s", first, gone)

    async def health(self) -> dict[str, Any]:
        """Whether PostgreSQL takes rows, and how many bytes wait."""
        return {
            "ok": self._error is None,
            "error": self._error,
            "last_error": self._last_error.report(),
            "behind_seconds": round(time.monotonic() - self._caught_up, 1),
            "pending_bytes": pending_bytes(self._folder),
            "damaged_lines": self._drain.damaged,
            "refused_rows": self._drain.refused,
        }

    async def usage(self, by: By, since: float, until: float, key_id: str | None) -> list[dict[str, Any]]:
        """What was asked and spent from `since` to `until` (Unix seconds). Raises `ChatError` where PostgreSQL is
        away."""
        begin, end = (datetime.fromtimestamp(one, UTC) for one in (since, until))
        with or_gone("ledger", AWAY):
            return await usage(self._store.pool, by, begin, end, key_id)

    async def spent(self, key_id: str, since: Mapping[Period, float]) -> dict[Period, float]:
        """What a key's requests have cost since these moments (Unix seconds), US dollars. Raises `ChatError` where
        PostgreSQL is away."""
        with or_gone("ledger", AWAY):
            begins = {period: datetime.fromtimestamp(at, UTC) for period, at in since.items()}
            return {period: await spent(self._store.pool, key_id, begin) for period, begin in begins.items()}

    async def request(self, request_id: str, key_id: str | None) -> dict[str, Any] | None:
        """All that is known of one request. Raises `ChatError` where PostgreSQL is away."""
        with or_gone("ledger", AWAY):
            return await request(self._store.pool, request_id, key_id)

    async def examples(self, after: str, count: int) -> list[dict[str, Any]]:
        """Answers that were rated, by request id, from behind this one on. Raises `ChatError` where PostgreSQL is
        away."""
        with or_gone("ledger", AWAY):
            return await self._store.examples(after, count)

    async def compared(self, model: str, base: str, since: float) -> dict[str, Any]:
        """How an adapter has done beside its base since then (Unix seconds): `arms`, `shadow`. Raises `ChatError`
        where PostgreSQL is away."""
        begin = datetime.fromtimestamp(since, UTC)
        with or_gone("ledger", AWAY):
            found = await arms(self._store.pool, model, base, begin)
            return {"arms": found, "shadow": await shadowed(self._store.pool, model, begin)}

    async def acts(self, count: int) -> list[dict[str, Any]]:
        """The last acts of administration. Raises `ChatError` where PostgreSQL is away."""
        with or_gone("ledger", AWAY):
            return await acts(self._store.pool, count)

    async def check_health(self) -> None:
        if self._draining.done():
            raise RuntimeError("the Ledger's drain has died")
