"""The rows of jobs, their events and files in PostgreSQL. Methods raise `AWAY` where that does not answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
from pydantic import ValidationError

from configs.training import JobEvent, JobSpec
from deployments.finetuning.job import FileRoom, Job, State, StoredFile
from deployments.finetuning.retention import Standing
from deployments.finetuning.states import Verdict
from deployments.finetuning.tail import plain, summed_up
from deployments.ledger.store import migrate

logger = logging.getLogger("ray.serve")

AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

Row = asyncpg.Record | Mapping[str, Any]
JOB_TIMES = ("created", "queued", "started", "finished", "cancel")

INSERT_JOB = """
insert into finetuning_jobs (id, key_id, created, queued, state, spec, asked)
values ($1, $2, $3, $3, 'queued', $4, $5)
"""
INSERT_EVENT = """
insert into finetuning_events (job, seq, at, kind, data) values ($1, $2, $3, $4, $5) on conflict do nothing
"""
ADVANCE = """
update finetuning_jobs
set last_seq = greatest(last_seq, $2), stage = coalesce($3, stage), progress = progress || $4
where id = $1
"""
BEGIN = """
update finetuning_jobs
set state = 'running', attempt = attempt + 1, attempt_seq = last_seq, started = coalesce(started, $2), note = $3,
    error = null
where id = $1 and state = 'queued' and attempt = $4 returning *
"""
END = """
update finetuning_jobs
set state = case when $2 = 'queued' and cancel is not null then 'cancelled' else $2 end,
    finished = case when $2 <> 'queued' or cancel is not null then $5::timestamptz end,
    error = $3, deaths = $4, note = null
where id = $1 and state = 'running' and attempt = $6
"""
CANCEL = """
update finetuning_jobs
set cancel = coalesce(cancel, $2), note = null,
    finished = case when state = 'queued' then $2 else finished end,
    state = case when state = 'queued' then 'cancelled' else state end
where id = $1 and state in ('queued', 'running') returning *
"""
RESUME = """
update finetuning_jobs
set state = 'queued', queued = $2, cancel = null, finished = null, error = null, deaths = 0, note = null
where id = $1 and state in ('failed', 'cancelled') returning *
"""
NEWEST = """
select * from finetuning_jobs
where ($1::text is null or key_id = $1)
    and ($2::text is null or (created, id) < (select created, id from finetuning_jobs where id = $2))
order by created desc, id desc limit $3
"""
GIVE_UP = """
update finetuning_jobs set state = 'failed', error = $2, finished = $3, note = null
where id = $1 and state in ('queued', 'running')
"""
STANDING = "select id, key_id, state, coalesce(finished, queued) as since from finetuning_jobs"
FORGET_SECONDS = 600.0
FORGET_CURVE = """
delete from finetuning_events using finetuning_jobs
where job = id and id = $1 and state in ('succeeded', 'failed', 'cancelled')
    and kind in ('progress', 'evaluation', 'checkpoint') and seq < last_seq
"""
FILES = """
select * from finetuning_files
where ($1::text is null or key_id = $1)
    and ($2::text is null or (created, id) {beyond} (select created, id from finetuning_files where id = $2))
order by created {order}, id {order} limit $3
"""
CHECKPOINTS = """
select checkpoint.*,
    (
        select data -> 'loss' from finetuning_events
        where job = $1 and kind = 'progress' and seq < checkpoint.seq order by seq desc limit 1
    ) as train_loss,
    (
        select data -> 'loss' from finetuning_events
        where job = $1 and kind = 'evaluation' and seq < checkpoint.seq order by seq desc limit 1
    ) as valid_loss
from finetuning_events as checkpoint
where job = $1 and kind = 'checkpoint' and ($2 < 0 or seq < $2) order by seq desc limit $3
"""
TOLD = """
select
    (
        select data from finetuning_events
        where job = $1 and kind = 'state' and seq > $2 order by seq desc limit 1
    ) as state,
    exists (select from finetuning_events where job = $1 and kind = 'checkpoint' and seq > $2) as advanced
"""
INSERT_FILE = """
insert into finetuning_files (id, key_id, created, filename, bytes, lines, sha256)
values ($1, $2, $3, $4, $5, $6, $7)
"""
FILE_ROOM = """
select coalesce(sum(bytes), 0)::bigint as bytes, count(*) filter (where key_id = $1) as own_files,
    coalesce(sum(bytes) filter (where key_id = $1), 0)::bigint as own_bytes
from finetuning_files
"""
ONE_BY_ONE = "select pg_advisory_xact_lock(hashtext('finetuning_files'))"


class FinetuningStore:
    """One connection pool."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def connect(self) -> None:
        """Open the pool and bring the tables up to date."""
        if self._pool is None:
            pool = await asyncpg.create_pool(self._url, min_size=1, max_size=4, timeout=5, command_timeout=30)
            assert pool is not None
            try:
                async with pool.acquire() as connection:
                    await migrate(connection)
            except BaseException:
                pool.terminate()
                raise
            self._pool = pool

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            raise OSError("PostgreSQL was not reached yet")
        return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    # -- jobs ----------------------------------------------------------------------------------------

    async def add(self, job: Job) -> None:
        """A new one, which waits."""
        spec = job.spec.model_dump_json()
        asked = json.dumps(plain(job.asked))
        await self.pool.execute(INSERT_JOB, job.id, job.key_id, _time(job.created), spec, asked)

    async def job(self, job_id: str, key_id: str | None) -> Job | None:
        """One of a key's jobs (None: of anyone's)."""
        row = await self.pool.fetchrow("select * from finetuning_jobs where id = $1", job_id)
        if row is None or key_id not in (None, row["key_id"]):
            return None
        return next(iter(readable([row])[0]), None)

    async def jobs(self, key_id: str | None, after: str | None, count: int) -> tuple[list[Job], bool]:
        """A key's jobs (None: everyone's), the newest first, from the one that follows `after`, and whether there
        are more."""
        rows = await self.pool.fetch(NEWEST, key_id, after, count + 1)
        return readable(rows[:count])[0], len(rows) > count

    async def under_way(self) -> list[Job]:
        """Those that wait or run. One that cannot be read holds up no other: it has failed."""
        rows = await self.pool.fetch("select * from finetuning_jobs where state in ('queued', 'running')")
        jobs, broken = readable(rows)
        for job_id, why in broken.items():
            await self.pool.execute(GIVE_UP, job_id, why, _time(time.time()))
        return jobs

    async def counts(self) -> dict[str, int]:
        """Jobs by state."""
        rows = await self.pool.fetch("select state, count(*) as jobs from finetuning_jobs group by state")
        return {row["state"]: row["jobs"] for row in rows}

    async def begin(self, job: Job, note: str) -> Job | None:
        """It runs, in a new attempt; None where it does not wait any more."""
        row = await self.pool.fetchrow(BEGIN, job.id, _time(time.time()), note, job.attempt)
        return None if row is None else _job(row)

    async def end(self, job: Job, verdict: Verdict) -> None:
        """What becomes of a running one whose process has ended."""
        error = None if verdict.state == "queued" else verdict.why
        now = _time(time.time())
        await self.pool.execute(END, job.id, verdict.state, plain(error), verdict.deaths, now, job.attempt)

    async def cancel(self, job_id: str) -> Job | None:
        """Cancelled at once where it waits, else told to stop; None where it has ended."""
        row = await self.pool.fetchrow(CANCEL, job_id, _time(time.time()))
        return None if row is None else _job(row)

    async def fail(self, job_id: str, error: str) -> None:
        """One that waits can never run."""
        statement = (
            "update finetuning_jobs set state = 'failed', error = $2, finished = $3, note = null "
            "where id = $1 and state = 'queued'"
        )
        await self.pool.execute(statement, job_id, plain(error), _time(time.time()))

    async def resume(self, job_id: str) -> Job | None:
        """It waits again, at the end; None where it has not stopped."""
        row = await self.pool.fetchrow(RESUME, job_id, _time(time.time()))
        return None if row is None else _job(row)

    async def note(self, job_id: str, note: str) -> None:
        """What it waits for."""
        await self.pool.execute(
            "update finetuning_jobs set note = $2 where id = $1 and state = 'queued'", job_id, note
        )

    # -- events --------------------------------------------------------------------------------------

    async def take(self, job_id: str, events: Sequence[JobEvent]) -> None:
        """Events of a job, each once, and what they say of its progress."""
        stage, progress = summed_up(list(events))
        reported = [event.at for event in events if event.kind == "progress"]
        if reported:
            progress["at"] = reported[-1]
        rows = [(job_id, one.seq, _time(one.at), one.kind, json.dumps(plain(one.data))) for one in events]
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.executemany(INSERT_EVENT, rows)
            await connection.execute(ADVANCE, job_id, events[-1].seq, stage, json.dumps(progress))

    async def events(
        self, job_id: str, after: int, count: int, kinds: Sequence[str] = (), *, newest: bool = False
    ) -> list[JobEvent]:
        """Of a job, those beyond a number, in order; `newest`: those before it (-1: all), the last first."""
        where = "job = $1 and ($4 = '{}'::text[] or kind = any($4))"
        beyond, order = ("($2 < 0 or seq < $2)", "desc") if newest else ("seq > $2", "asc")
        statement = f"select * from finetuning_events where {where} and {beyond} order by seq {order} limit $3"  # noqa: S608
        return [_event(row) for row in await self.pool.fetch(statement, job_id, after, count, list(kinds))]

    async def checkpoints(self, job_id: str, before: int, count: int) -> list[tuple[JobEvent, dict[str, Any]]]:
        """Of a job, those before a number (-1: all), the last first; each with the losses as they were by then."""
        rows = await self.pool.fetch(CHECKPOINTS, job_id, before, count)
        names = ("train_loss", "valid_loss")
        return [
            (_event(row), {name: None if row[name] is None else json.loads(row[name]) for name in names})
            for row in rows
        ]

    async def told(self, job: Job) -> tuple[dict[str, Any] | None, bool]:
        """What its process said last of its state in this attempt, and whether it has left a checkpoint in it."""
        row = await self.pool.fetchrow(TOLD, job.id, job.attempt_seq)
        assert row is not None
        return None if row["state"] is None else json.loads(row["state"]), row["advanced"]

    # -- what has ended long ago -------------------------------------------------------------------

    async def standing(self) -> list[Standing]:
        """All jobs, and since when each is as it is."""
        rows = await self.pool.fetch(STANDING)
        return [Standing(row["id"], row["state"], row["since"].timestamp(), row["key_id"]) for row in rows]

    async def has_ended(self, job_id: str) -> bool:
        """Whether a job neither waits nor runs; one without a row does not."""
        statement = "select from finetuning_jobs where id = $1 and state in ('queued', 'running')"
        return await self.pool.fetchrow(statement, job_id) is None

    async def forget_curve(self, job_id: str) -> None:
        """Of a job that has ended: each step, and the checkpoints that are gone. The last event stays, by which it
        is known that nothing follows."""
        await self.pool.execute(FORGET_CURVE, job_id, timeout=FORGET_SECONDS)

    # -- files ---------------------------------------------------------------------------------------

    async def add_file(self, file: StoredFile, check: Callable[[FileRoom], None]) -> None:
        """A new one. `check`: raises where there is no room for it beside those that are there by then."""
        named = (plain(file.filename), file.bytes, file.lines, file.sha256)
        async with self.pool.acquire() as connection, connection.transaction():
            # (Of several that come at once each sees those before it.)
            await connection.execute(ONE_BY_ONE)
            check(await _file_room(connection, file.key_id))
            await connection.execute(INSERT_FILE, file.id, file.key_id, _time(file.created), *named)

    async def file_room(self, key_id: str) -> FileRoom:
        """What files take now."""
        async with self.pool.acquire() as connection:
            return await _file_room(connection, key_id)

    async def file(self, file_id: str, key_id: str | None) -> StoredFile | None:
        """One of a key's files (None: of anyone's)."""
        statement = "select * from finetuning_files where id = $1 and ($2::text is null or key_id = $2)"
        row = await self.pool.fetchrow(statement, file_id, key_id)
        return None if row is None else _file(row)

    async def files(self, key_id: str | None, after: str | None, count: int, *, newest: bool) -> list[StoredFile]:
        """A key's files (None: everyone's), from the one that follows `after`."""
        beyond, order = ("<", "desc") if newest else (">", "asc")
        rows = await self.pool.fetch(FILES.format(beyond=beyond, order=order), key_id, after, count)
        return [_file(row) for row in rows]

    async def remove_file(self, file_id: str, key_id: str | None) -> bool:
        """Whether it was there."""
        statement = "delete from finetuning_files where id = $1 and ($2::text is null or key_id = $2) returning id"
        return await self.pool.fetchval(statement, file_id, key_id) is not None

    async def file_ids(self) -> set[str]:
        """Of everyone's files."""
        return {row["id"] for row in await self.pool.fetch("select id from finetuning_files")}


async def _file_room(connection: Any, key_id: str) -> FileRoom:
    return FileRoom(**await connection.fetchrow(FILE_ROOM, key_id))


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def readable(rows: Sequence[Row]) -> tuple[list[Job], dict[str, str]]:
    """The jobs of these rows, and of those that this release cannot read (another may have written them) the id
    and why."""
    jobs: list[Job] = []
    broken: dict[str, str] = {}
    for row in rows:
        try:
            jobs.append(_job(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            broken[row["id"]] = f"its spec cannot be read: {where}: {first['msg']}"
            logger.warning("fine-tuning: %s: %s", row["id"], broken[row["id"]])
    return jobs, broken


def _job(row: Row) -> Job:
    fields = dict(row)
    for name in JOB_TIMES:
        fields[name] = None if fields[name] is None else fields[name].timestamp()
    for name in ("asked", "progress"):
        fields[name] = json.loads(fields[name])
    state: State = fields["state"]
    spec = JobSpec.model_validate_json(fields["spec"])
    return Job(**{**fields, "state": state, "spec": spec})


def _event(row: asyncpg.Record) -> JobEvent:
    return JobEvent(seq=row["seq"], at=row["at"].timestamp(), kind=row["kind"], data=json.loads(row["data"]))


def _file(row: asyncpg.Record) -> StoredFile:
    return StoredFile(**{**dict(row), "created": row["created"].timestamp()})
