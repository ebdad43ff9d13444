"""Fine-tuning as a Serve deployment: takes jobs on, and has a foreman look after them. Nothing is trained in here:
each job is a Ray job, which outlives this replica, and PostgreSQL's absence."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ray.serve.handle import DeploymentHandle

from configs.catalog import Catalog
from configs.home import home
from configs.profile import Profile
from configs.training import CLEARED, JobEvent
from deployments.contract import ChatError, or_gone
from deployments.finetuning.asked import Start
from deployments.finetuning.foreman import Foreman
from deployments.finetuning.intake import Intake
from deployments.finetuning.job import OVER, Job, StoredFile, file_path, sweep_files
from deployments.finetuning.metrics import JobGauges
from deployments.finetuning.objects import curve_of
from deployments.finetuning.ray_jobs import OUTPUT, FromResidency, RayJobs
from deployments.finetuning.retention import tidy
from deployments.finetuning.states import (
    check_cancel,
    check_file_room,
    check_resume,
    place,
    unknown_file,
    unknown_job,
)
from deployments.finetuning.store import AWAY, FinetuningStore
from deployments.last_error import LastError
from deployments.logs import trace_of
from deployments.serving import deployment
from deployments.timing import within

logger = logging.getLogger("ray.serve")

ROUND_SECONDS = 1.0
RETRY_SECONDS = 2.0
TIDY_SECONDS = 3600.0
MOST_CURVE = 50_000
"""Events that a curve is made of: the newest."""


class Keys(Protocol):
    """What jobs ask the group with."""

    def end(self, under_way: Container[str]) -> None:
        """Revoke those of all jobs but these."""
        ...


@deployment
class Finetuning:
    """The jobs of this machine. `residency`: None where no variant is swapped. `room_mb`: the most
    of its memory that a job can have. `keys`: of jobs, which go with them."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        url: str,
        residency: DeploymentHandle | None,
        room_mb: int,
        keys: Keys,
    ) -> None:
        self._keys = keys
        self._home = home()
        self._rules = profile.finetuning
        self._store = FinetuningStore(url)
        lender = None if residency is None else FromResidency(residency)
        processes = RayJobs(self._rules.runner)
        self._foreman = Foreman(self._rules, catalog, self._home, self._store, processes, lender, self._tell_news)
        room = room_mb if residency is None else None
        self._intake = Intake(profile, catalog, self._home, self._store, self._foreman.folder, room)
        self._news = asyncio.Event()
        self._one_has_ended = asyncio.Event()
        self._error: str | None = None
        self._last_error = LastError()
        self._gauges = JobGauges()
        self._counts: dict[str, int] = {}
        self._working = asyncio.get_running_loop().create_task(self._run())

    # -- the rounds ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        # While a rollout replaces this deployment there are two: one looks after the jobs.
        lock = await self._alone()
        swept, has_ended = False, -1
        tidying = asyncio.get_running_loop().create_task(self._tidy())
        try:
            while True:
                pause = ROUND_SECONDS
                try:
                    await self._store.connect()
                    if not swept:
                        known = await self._store.file_ids()
                        await asyncio.to_thread(sweep_files, self._home, known, time.time())
                        swept = True
                    jobs = await self._foreman.once()
                    await asyncio.to_thread(self._keys.end, {job.id for job in jobs})
                    self._counts = await self._store.counts()
                    self._gauges.show(jobs, self._counts)
                    ended = sum(self._counts.get(state, 0) for state in OVER)
                    if ended != has_ended:
                        self._one_has_ended.set()
                        has_ended = ended
                    self._error = None
                except AWAY as error:
                    if self._error is None:
                        logger.warning("fine-tuning: PostgreSQL is away (%r); what runs goes on", error)
                    self._error = self._last_error.note(error)
                    pause = RETRY_SECONDS
                except Exception as error:
                    logger.error("fine-tuning: a round failed\n%s", trace_of(error))
                    self._error = self._last_error.note(error)
                    pause = RETRY_SECONDS
                await asyncio.sleep(pause)
        finally:
            tidying.cancel()
            os.close(lock)

    async def _tidy(self) -> None:
        """What old jobs have left goes: when one has ended, and now and then. (Beside the rounds: gigabytes take
        their time, and leases are not to wait for it.)"""
        while True:
            with suppress(TimeoutError):
                await within(self._one_has_ended.wait(), TIDY_SECONDS)
            self._one_has_ended.clear()
            try:
                await tidy(self._store, self._rules, self._home, time.time())
            except AWAY as error:
                logger.warning("fine-tuning: what old jobs have left stays for now: %r", error)
            except Exception as error:
                logger.error("fine-tuning: what old jobs have left stays\n%s", trace_of(error))

    async def _alone(self) -> int:
        """Wait until no other looks after the jobs; the lock, which goes with this process."""
        self._home.training.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._home.training / "foreman.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                # (Meanwhile requests are answered.)
                with suppress(*AWAY):
                    await self._store.connect()
                await asyncio.sleep(ROUND_SECONDS)

    def _tell_news(self, job_id: str) -> None:
        del job_id
        self._news.set()
        self._news = asyncio.Event()

    # -- jobs ----------------------------------------------------------------------------------------

    async def start(
        self, start: Start, key_id: str, asked: Mapping[str, Any], variants: tuple[str, ...] | None, owner: bool
    ) -> Job:
        """Take a job on. `asked`: what is shown of it again; `variants`: those that its key may use; `owner`:
        whether it may use this machine's datasets. Raises `ChatError`."""
        return await self._intake.take_on(start, key_id, asked, variants, owner=owner)

    async def one(self, job_id: str, key_id: str | None) -> Job:
        """One job of a key's (None: of anyone's). Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            return await self._found(job_id, key_id)

    async def job(self, job_id: str, key_id: str | None) -> dict[str, Any]:
        """The same with its place in the queue and its curve. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            job = await self._found(job_id, key_id)
            waiting = place(job, await self._store.under_way())
            events = await self._store.events(job_id, -1, MOST_CURVE, ("progress", "evaluation"), newest=True)
        return {"job": job, "place": waiting, "curve": await asyncio.to_thread(curve_of, events[::-1])}

    async def jobs(self, key_id: str | None, after: str | None, count: int) -> tuple[list[Job], bool]:
        """A key's jobs (None: everyone's), the newest first, and whether there are more. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            return await self._store.jobs(key_id, after, count)

    async def cancel(self, job_id: str, key_id: str | None) -> Job:
        """Stop a job. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            job = await self._found(job_id, key_id)
            check_cancel(job)
            changed = await self._store.cancel(job_id)
        if changed is None:
            check_cancel(await self._found(job_id, key_id))
        self._tell_news(job_id)
        return changed or job

    async def resume(self, job_id: str, key_id: str | None) -> Job:
        """Let a job that has stopped go on from its last checkpoint. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            job = await self._found(job_id, key_id)
            check_resume(job, cleared=(self._foreman.folder(job_id) / CLEARED).exists())
            if key_id is not None:
                await self._intake.check_own(job.spec.name, (), key_id, await self._store.under_way())
            changed = await self._store.resume(job_id)
            try:
                # (What it goes on from may just have been removed: see `retention.clear`.)
                check_resume(job, cleared=(self._foreman.folder(job_id) / CLEARED).exists())
            except ChatError as error:
                await self._store.fail(job_id, error.message)
                raise
        return changed or job

    async def events(
        self,
        job_id: str,
        key_id: str | None,
        after: int,
        count: int,
        kinds: tuple[str, ...] = (),
        *,
        newest: bool = False,
        wait: float = 0.0,
    ) -> tuple[Job, list[JobEvent]]:
        """A job and its events beyond a number; `wait`: so long, where there are none yet and it has not ended.
        Raises `ChatError`."""
        until = time.monotonic() + wait
        with or_gone("finetuning", AWAY):
            while True:
                news = self._news
                job = await self._found(job_id, key_id)
                found = await self._store.events(job_id, after, count, kinds, newest=newest)
                left = until - time.monotonic()
                if found or left <= 0 or (job.state in OVER and after >= job.last_seq):
                    return job, found
                try:
                    await within(news.wait(), min(left, ROUND_SECONDS))
                except TimeoutError:
                    continue

    async def checkpoints(
        self, job_id: str, key_id: str | None, before: int, count: int
    ) -> tuple[Job, list[tuple[JobEvent, dict[str, Any]]]]:
        """A job and its checkpoints before an event's number (-1: all), the last first, each with the losses that
        came before it. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            return await self._found(job_id, key_id), await self._store.checkpoints(job_id, before, count)

    async def logs(self, job_id: str, key_id: str | None, most_bytes: int) -> str:
        """The end of what a job's processes have printed. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            await self._found(job_id, key_id)
        return await asyncio.to_thread(_end_of, self._foreman.folder(job_id) / OUTPUT, most_bytes)

    async def _found(self, job_id: str, key_id: str | None) -> Job:
        job = await self._store.job(job_id, key_id)
        if job is None:
            raise unknown_job(job_id)
        return job

    # -- files ---------------------------------------------------------------------------------------

    async def add_file(self, file: StoredFile) -> None:
        """Keep the row of a file that lies there already. Raises `ChatError` where there is no room for it."""
        with or_gone("finetuning", AWAY):
            await self._store.add_file(file, lambda room: check_file_room(self._rules, room, file.bytes))

    async def check_file_room(self, key_id: str) -> None:
        """Raise a `ChatError` where a key may keep no further file, however small."""
        with or_gone("finetuning", AWAY):
            check_file_room(self._rules, await self._store.file_room(key_id), 1)

    async def file(self, file_id: str, key_id: str | None) -> StoredFile:
        """One of a key's files (None: of anyone's). Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            found = await self._store.file(file_id, key_id)
        if found is None:
            raise unknown_file(file_id)
        return found

    async def files(
        self, key_id: str | None, after: str | None, count: int, *, newest: bool
    ) -> tuple[list[StoredFile], bool]:
        """A key's files (None: everyone's), and whether there are more. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            found = await self._store.files(key_id, after, count + 1, newest=newest)
        return found[:count], len(found) > count

    async def remove_file(self, file_id: str, key_id: str | None) -> None:
        """Forget a file of a key's (None: of anyone's); jobs have their own copies. Raises `ChatError`."""
        with or_gone("finetuning", AWAY):
            if not await self._store.remove_file(file_id, key_id):
                raise unknown_file(file_id)
        await asyncio.to_thread(file_path(self._home, file_id).unlink, missing_ok=True)

    # -- how it is -----------------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """Whether its rounds go well, and how many jobs wait and run."""
        return {
            "ok": self._error is None and not self._working.done(),
            "error": self._error,
            "last_error": self._last_error.report(),
            "queued": self._counts.get("queued", 0),
            "running": self._counts.get("running", 0),
        }

    async def check_health(self) -> None:
        """Serve restarts this when it raises."""
        if self._working.done():
            raise RuntimeError("nobody looks after the fine-tuning jobs any more")


def _end_of(path: Path, most_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            return file.read(most_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
