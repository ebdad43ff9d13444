"""What jobs that have ended leave behind, on disk and in PostgreSQL, and when it goes.

Of such a job its checkpoints and its copies of data go; its spec, its events and what it printed stay in its
folder, and in PostgreSQL its row and what it said but for its curve. Jobs of `groupqwen train here` have a folder
and no row.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from configs.adapters import read_adapters
from configs.finetuning import FinetuningRules
from configs.home import Home
from configs.training import CLEARED, HEAVY, JOB_ID, RUN_LOCK, read_events
from deployments.finetuning.job import OVER, State

if TYPE_CHECKING:
    from deployments.finetuning.store import FinetuningStore

logger = logging.getLogger("ray.serve")

DAY_SECONDS = 86_400.0
DATA = "dataset"
"""What a job has learned from: a further form of its adapter may be calibrated by it."""
SAID: dict[object, State] = {"succeeded": "succeeded", "failed": "failed"}
"""What a job said last, as its state; one that said anything else has stopped, and can go on."""


@dataclass(frozen=True)
class Standing:
    """A job, and since when (Unix seconds) it is as it is. `key_id`: whose it is; empty: the machine's owner's."""

    id: str
    state: State
    since: float
    key_id: str = ""


def surplus(jobs: Sequence[Standing], rules: FinetuningRules, now: float) -> set[str]:
    """Whose leftovers go. Of each key those of the newest `keep_jobs` that have succeeded stay, and of as many as
    have stopped, which can go on until they are older than `keep_days`. Pure."""
    kept: Counter[tuple[str, bool]] = Counter()
    gone = set()
    for job in sorted((job for job in jobs if job.state in OVER), key=lambda job: (-job.since, job.id)):
        succeeded = job.state == "succeeded"
        kept[job.key_id, succeeded] += 1
        old = not succeeded and now - job.since > rules.keep_days * DAY_SECONDS
        if old or kept[job.key_id, succeeded] > rules.keep_jobs:
            gone.add(job.id)
    return gone


def without_rows(jobs: Path, known: Container[str]) -> Iterator[Standing]:
    """Those that have a folder with something in it that could go, and no row."""
    for folder in jobs.glob("ftjob-*"):
        if folder.name in known or not re.match(JOB_ID, folder.name):
            continue
        try:
            if any((folder / name).exists() for name in HEAVY):
                yield _as_told(folder)
        except OSError as error:
            logger.warning("fine-tuning: nobody knows what %s is: %r", folder.name, error)


def _as_told(folder: Path) -> Standing:
    last = None
    state: State = "cancelled"
    for event in read_events(folder):
        last = event.at
        if event.kind == "state":
            state = SAID.get(event.data.get("state"), "cancelled")
    return Standing(folder.name, state, last or folder.stat().st_mtime)


def clear(folder: Path, has_ended: Callable[[], bool], spared: Container[str] = ()) -> bool:
    """Remove what takes room in a job's folder (but what is `spared`), and say so there; False where there is
    nothing, where a process is at work in it, or where it goes on after all.

    Raises `OSError`, and what `has_ended` raises.
    """
    if not any((folder / name).exists() for name in HEAVY if name not in spared):
        return False
    try:
        with FileLock(folder / RUN_LOCK, timeout=0):
            # First said, then asked, then done; who resumes it changes its state, then looks whether this is said.
            # So of the two at least one sees the other.
            said = (folder / CLEARED).exists()
            (folder / CLEARED).touch(mode=0o600)
            goes_on = True
            try:
                goes_on = not has_ended()
            finally:
                if goes_on and not said:
                    (folder / CLEARED).unlink()
            for name in HEAVY:
                if not goes_on and name not in spared and (folder / name).exists():
                    shutil.rmtree(folder / name)
    except Timeout:
        return False
    return not goes_on


async def tidy(store: FinetuningStore, rules: FinetuningRules, home: Home, now: float) -> list[str]:
    """Remove what has been kept long enough; the jobs that it was of. An adapter that is there keeps its data.
    Raises `AWAY`."""
    jobs, loop = await store.standing(), asyncio.get_running_loop()
    folder = home.training / "jobs"
    known = {job.id for job in jobs}

    def look() -> tuple[set[str], list[Standing]]:
        of_adapters = {one.job for one in read_adapters(home.adapters) if one.job is not None}
        return of_adapters, list(without_rows(folder, known))

    of_adapters, others = await asyncio.to_thread(look)
    cleared = []
    for job_id in sorted(surplus([*jobs, *others], rules, now)):

        def has_ended(job_id: str = job_id) -> bool:
            return asyncio.run_coroutine_threadsafe(store.has_ended(job_id), loop).result()

        try:
            spared = {DATA} if job_id in of_adapters else ()
            if not await asyncio.to_thread(clear, folder / job_id, has_ended, spared):
                continue
        except OSError as error:
            logger.warning("fine-tuning: what %s has left stays: %r", job_id, error)
            continue
        await store.forget_curve(job_id)
        logger.info("fine-tuning: of %s what takes room was removed", job_id)
        cleared.append(job_id)
    return cleared
