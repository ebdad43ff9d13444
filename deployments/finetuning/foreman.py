"""Who sees to it that jobs run: starts those whose turn it is, follows those that run, and settles those that have
ended. Knows neither Ray nor Residency, only what it asks of them.

Jobs start in order, also where the first of them waits for memory and one behind it would find enough: whoever
passes takes memory that the first waits for, and small jobs would starve a large one. So the first must not wait
for ever: while others run, it waits for them; where none does, it has failed when its time (`memory_seconds`) is
over, and the next one has its turn. Its row says what it waits for.

A job's folder is the truth of what it did, its row of what is to be done with it. What is kept here between two
rounds can be lost at any time: another foreman goes on from rows, folders and Ray's word.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from configs.catalog import Catalog
from configs.finetuning import FinetuningRules
from configs.home import Home
from configs.training import EventKind, EventLog
from deployments.finetuning.job import Job
from deployments.finetuning.memory import Loan, needed_mb
from deployments.finetuning.states import Process, after_the_end, startable, without_a_start
from deployments.finetuning.store import AWAY, FinetuningStore
from deployments.finetuning.tail import MOST_EVENTS, Tail

logger = logging.getLogger("ray.serve")

BEGINS_SECONDS = 60.0
"""Within which Ray may not know yet what it was told to start."""


class Processes(Protocol):
    """The Ray jobs. Methods raise `OSError` where Ray does not answer."""

    async def submit(self, job: Job, folder: Path) -> None:
        """Start its process. Said twice, it is started once."""
        ...

    async def look(self, job: Job) -> tuple[Process, str]:
        """How its process is, and what is known of its end."""
        ...

    async def stop(self, job: Job) -> None:
        """End it, if it is there."""
        ...


class Lender(Protocol):
    """Residency. Methods raise `OSError` where it does not answer."""

    async def lend(self, guest: str, mb: int, *, has: bool) -> Loan:
        """Lend memory, or go on lending it. `has`: the guest runs, and has it."""
        ...

    async def give_back(self, guest: str) -> None:
        """It is not needed any more."""
        ...


class Foreman:
    """Of one machine. `lender`: None where no variant is swapped: then nobody is asked for memory."""

    def __init__(
        self,
        rules: FinetuningRules,
        catalog: Catalog,
        home: Home,
        store: FinetuningStore,
        processes: Processes,
        lender: Lender | None,
        news: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        self._rules, self._catalog, self._home = rules, catalog, home
        self._store, self._processes, self._lender, self._news = store, processes, lender, news
        self._tails: dict[str, Tail] = {}
        self._running: dict[str, Job] = {}
        self._begun: dict[str, float] = {}
        """When Ray was told of an attempt."""
        self._asked: set[str] = set()
        """Who has memory, or has asked for it."""
        self._lacks_memory = False
        """The job that was looked at last waits for memory: nobody passes it."""
        self._waits: dict[str, float] = {}
        """Since when a job has waited for memory though no other runs."""

    def folder(self, job_id: str) -> Path:
        """Of a job."""
        return self._home.training / "jobs" / job_id

    async def once(self) -> list[Job]:
        """One round; the jobs that are under way. Raises what the store raises where PostgreSQL is away: what runs
        goes on, and its memory is kept for it."""
        try:
            jobs = await self._store.under_way()
        except AWAY:
            for job in list(self._running.values()):
                await self._while_nobody_writes(job)
            raise
        self._running = {job.id: job for job in jobs if job.state == "running"}
        for job in list(self._running.values()):
            await self._guarded(job, self._follow)
        starting = startable(jobs, self._rules.jobs_at_once)
        self._waits = {job.id: self._waits[job.id] for job in starting if job.id in self._waits}
        asking = set()
        for job in starting:
            asking.add(job.id)
            self._lacks_memory = False
            await self._guarded(job, self._start)
            if self._lacks_memory:
                break
        # Who waits for memory goes on asking; who was cancelled, or has another before it now, asks no more.
        for guest in self._asked - asking - self._running.keys():
            await self._give_back(guest)
        return jobs

    async def _guarded(self, job: Job, step: Callable[[Job], Awaitable[None]]) -> None:
        """What is wrong with one job holds up no other."""
        try:
            await step(job)
        except AWAY as error:
            logger.warning("fine-tuning: %s waits for another round: %r", job.id, error)
        except Exception:
            logger.exception("fine-tuning: a round of %s failed", job.id)

    # -- a job that runs -----------------------------------------------------------------------------

    async def _follow(self, job: Job) -> None:
        # First of all: whatever is slow or away below, what it has taken must not be given to others.
        await self._lend(job)
        process, why = await self._look(job)
        await self._copy(job)
        if process == "alive":
            if job.cancel is not None:
                await self._end_in_time(job, job.cancel)
            return
        if process == "needless" and job.cancel is not None:
            # (For the other process, which is not ours to end.)
            await asyncio.to_thread((self.folder(job.id) / "cancel").touch)
        # (What it wrote between the first look and its end.)
        await self._copy(job)
        said, advanced = await self._store.told(job)
        verdict = (
            without_a_start(job, said)
            if process == "needless"
            else after_the_end(job, said, why, advanced=advanced, resumptions=self._rules.resumptions)
        )
        if verdict.why is not None and (said is None or said.get("state") != "failed"):
            going_on = "" if verdict.state == "failed" else "; it goes on from its last checkpoint"
            await self._tell(job, "log", level="warning", message=f"{verdict.why}{going_on}")
        if verdict.state in ("failed", "cancelled") and (said is None or said.get("state") == "running"):
            ended = (
                {"state": "failed", "error": verdict.why} if verdict.state == "failed" else {"state": "stopped"}
            )
            await self._tell(job, "state", **ended)
        await self._copy(job)
        await self._store.end(job, verdict)
        self._tails.pop(job.id, None)
        self._running.pop(job.id, None)
        self._begun.pop(job.submission, None)
        await self._give_back(job.id)
        self._news(job.id)

    async def _end_in_time(self, job: Job, since: float) -> None:
        """It stops by itself at its next step; if it does not, it is ended."""
        await asyncio.to_thread((self.folder(job.id) / "cancel").touch)
        if time.time() - since > self._rules.cancel_seconds:
            await self._processes.stop(job)

    async def _while_nobody_writes(self, job: Job) -> None:
        """Of a job that runs while PostgreSQL is away: its rows follow."""
        try:
            process, _ = await self._look(job)
        except OSError as error:
            logger.warning("fine-tuning: nobody says how %s is: %r", job.id, error)
            process = "alive"
        if process == "alive":
            await self._lend(job)
        else:
            await self._give_back(job.id)

    async def _look(self, job: Job) -> tuple[Process, str]:
        """How its process is. One that Ray does not know a moment after it was told of it may still begin."""
        process, why = await self._processes.look(job)
        begun = self._begun.get(job.submission)
        if process == "unknown" and begun is not None and time.monotonic() - begun < BEGINS_SECONDS:
            return "alive", why
        return process, why

    async def _copy(self, job: Job) -> None:
        """New events, into PostgreSQL."""
        tail = self._tails.get(job.id)
        if tail is None:
            tail = self._tails[job.id] = Tail(self.folder(job.id), job.last_seq)
        while True:
            events = await asyncio.to_thread(tail.look)
            if events:
                await self._store.take(job.id, events)
                self._news(job.id)
            tail.seen(events)
            if len(events) < MOST_EVENTS:
                return

    async def _tell(self, job: Job, kind: EventKind, **data: Any) -> None:
        """An event of our own, while no process of the job's is there to write."""

        def tell() -> None:
            if self.folder(job.id).is_dir():
                EventLog(self.folder(job.id)).add(kind, **data)

        await asyncio.to_thread(tell)

    # -- a job that starts ---------------------------------------------------------------------------

    async def _start(self, job: Job) -> None:
        folder = self.folder(job.id)
        if not (folder / "spec.json").is_file():
            await self._store.fail(job.id, "its folder is gone")
            return
        note = await self._memory(job)
        if note is None:
            return
        (folder / "cancel").unlink(missing_ok=True)
        await self._tell(job, "log", level="info", message=note)
        await self._copy(job)
        begun = await self._store.begin(job, note)
        if begun is None:
            await self._give_back(job.id)
            return
        self._running[job.id] = begun
        self._news(job.id)
        self._begun[begun.submission] = time.monotonic()
        await self._processes.submit(begun, folder)

    async def _memory(self, job: Job) -> str | None:
        """What it was given, in words; None where it has to wait, or can never run (then it has failed)."""
        mb = self._wanted_mb(job)
        if self._lender is None:
            return "No memory was asked for: no variant of this machine is swapped"
        if mb == 0:
            return "No memory was asked for: the profile says that jobs need none"
        self._asked.add(job.id)
        self._lacks_memory = True
        try:
            loan = await self._lender.lend(job.id, mb, has=False)
        except OSError:
            # Not its fault, nor would another fare better.
            self._waits.pop(job.id, None)
            await self._note(job, "waits until Residency answers, which lends memory to jobs")
            raise
        if loan.free:
            self._lacks_memory = False
            return f"{mb} MiB were given to it by Residency"
        if loan.impossible is not None:
            self._asked.discard(job.id)
            # (What others have comes back, at the latest when their leases end.)
            if not loan.lent_mb:
                await self._fail(job, f"there is no memory for it: {loan.impossible}")
            else:
                await self._note(job, f"waits until other jobs have ended: {loan.impossible}")
            return None
        told = f"{mb} MiB are free ({loan.waits_for or 'variants are leaving'})"
        if self._has_waited(job) > self._rules.memory_seconds:
            await self._fail(job, f"it has waited {self._rules.memory_seconds:g} s in vain until {told}")
            await self._give_back(job.id)
        else:
            await self._note(job, f"waits until {told}")
        return None

    def _has_waited(self, job: Job) -> float:
        """Seconds, for memory, while no other ran."""
        if self._running:
            self._waits.pop(job.id, None)
            return 0.0
        return time.monotonic() - self._waits.setdefault(job.id, time.monotonic())

    async def _note(self, job: Job, note: str) -> None:
        if job.note != note:
            await self._store.note(job.id, note)

    async def _fail(self, job: Job, error: str) -> None:
        """One that waits can not run."""
        await self._tell(job, "state", state="failed", error=error)
        await self._copy(job)
        await self._store.fail(job.id, error)
        self._tails.pop(job.id, None)
        self._news(job.id)

    async def _lend(self, job: Job) -> None:
        mb = self._wanted_mb(job)
        if self._lender is not None and mb:
            self._asked.add(job.id)
            try:
                await self._lender.lend(job.id, mb, has=True)
            except OSError as error:
                logger.warning("fine-tuning: %s keeps its memory until its lease ends: %r", job.id, error)

    async def _give_back(self, guest: str) -> None:
        if self._lender is not None:
            try:
                await self._lender.give_back(guest)
            except OSError as error:
                # It is said again in the next round.
                logger.warning("fine-tuning: the memory of %s is not given back yet: %r", guest, error)
                self._asked.add(guest)
                return
        self._asked.discard(guest)

    def _wanted_mb(self, job: Job) -> int:
        if self._rules.memory_mb is not None:
            return self._rules.memory_mb
        base = self._catalog.variants.get(job.spec.base)
        return 0 if base is None else needed_mb(base, job.spec.recipe, job.spec.workers)
