"""What a foreman does in what order, asked by stand-ins: rounds with the real parts are in tests/integration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.finetuning import FinetuningRules
from configs.home import Home
from deployments.finetuning.foreman import BEGINS_SECONDS, Foreman
from deployments.finetuning.job import Job
from deployments.finetuning.memory import Loan
from deployments.finetuning.states import Process
from tests.deployments.finetuning.test_states import job


class Parts:
    """Store, Ray and Residency: what they were asked, in order."""

    def __init__(self, process: Process | OSError) -> None:
        self.process, self.told = process, []  # type: Process | OSError, list[tuple[Any, ...]]

    async def look(self, one: Any) -> tuple[Process, str]:
        self.told.append(("look",))
        if isinstance(self.process, OSError):
            raise self.process
        return self.process, "why"

    async def lend(self, guest: str, mb: int, *, has: bool) -> Loan:
        self.told.append(("lend", has))
        return Loan(free=True)

    async def give_back(self, guest: str) -> None:
        self.told.append(("give back",))

    async def under_way(self) -> list[Any]:
        return [job(1, "running", attempt=1)]


def foreman(parts: Any, home: Path) -> Foreman:
    rules = FinetuningRules.model_validate({"memory_mb": 100})
    return Foreman(rules, load_catalog(), Home(home), parts, parts, parts)


def test_a_job_that_runs_keeps_its_memory_before_all_else(tmp_path: Path) -> None:
    parts = Parts(OSError("Ray says nothing"))
    asyncio.run(foreman(parts, tmp_path).once())
    assert parts.told == [("lend", True), ("look",)]


@pytest.mark.parametrize(("ago", "process"), [(0.0, "alive"), (BEGINS_SECONDS + 1, "unknown")])
def test_ray_may_not_know_yet_what_it_was_told_to_start(tmp_path: Path, ago: float, process: Process) -> None:
    one = job(1, "running", attempt=1)
    looks = foreman(Parts("unknown"), tmp_path)
    looks._begun[one.submission] = time.monotonic() - ago
    assert asyncio.run(looks._look(one))[0] == process


class Machine(Parts):
    """With a queue, and a Residency that says of each job what `loans` says."""

    def __init__(self, home: Path, jobs: list[Job], loans: Mapping[str, Loan | OSError]) -> None:
        super().__init__("alive")
        self.deaf = False
        self.jobs, self.loans = {one.id: one for one in jobs}, dict(loans)
        for one in jobs:
            folder = Home(home).training / "jobs" / one.id
            folder.mkdir(parents=True)
            (folder / "spec.json").touch()

    async def lend(self, guest: str, mb: int, *, has: bool) -> Loan:
        loan = Loan(free=True) if has else self.loans[guest]
        if isinstance(loan, OSError):
            raise loan
        return loan

    async def give_back(self, guest: str) -> None:
        self.told.append(("give back", guest))
        if self.deaf:
            raise OSError("Residency does not answer")

    async def under_way(self) -> list[Any]:
        return [one for one in self.jobs.values() if one.state in ("queued", "running")]

    async def note(self, job_id: str, note: str) -> None:
        self.told.append(("note", job_id))
        self.jobs[job_id] = replace(self.jobs[job_id], note=note)

    async def fail(self, job_id: str, error: str) -> None:
        self.jobs[job_id] = replace(self.jobs[job_id], state="failed", error=error)

    async def begin(self, one: Job, note: str) -> Job:
        self.jobs[one.id] = replace(one, state="running", attempt=one.attempt + 1, note=note)
        return self.jobs[one.id]

    async def take(self, job_id: str, events: Any) -> None:
        """Its events are in its folder."""

    async def submit(self, one: Job, folder: Path) -> None:
        self.told.append(("submit", one.id))

    def state(self, one: Job) -> str:
        return self.jobs[one.id].state


FREE = Loan(free=True)
TAKEN = Loan(free=False, waits_for="still in memory: large")
BEYOND = Loan(free=False, impossible="100 MiB are wanted; 90 for other jobs", lent_mb=90)
NEVER = Loan(free=False, impossible="100 MiB are wanted; 90 for variants that stay")


def rounds(machine: Machine, home: Path, count: int = 1, seconds: float = 1000.0, **rules: Any) -> None:
    """So many, `seconds` after each other."""
    looks = foreman(machine, home)
    looks._rules = FinetuningRules.model_validate({"memory_mb": 100, "memory_seconds": 1500, **rules})

    async def go() -> None:
        for _ in range(count):
            await looks.once()
            looks._waits = {name: since - seconds for name, since in looks._waits.items()}

    asyncio.run(go())


def test_one_that_waits_for_memory_says_for_what_and_nobody_passes_it(tmp_path: Path) -> None:
    first, second = job(1), job(2)
    machine = Machine(tmp_path, [first, second], {first.id: TAKEN, second.id: FREE})
    rounds(machine, tmp_path, 2)
    assert (machine.state(first), machine.state(second)) == ("queued", "queued")
    assert machine.jobs[first.id].note == "waits until 100 MiB are free (still in memory: large)"
    assert machine.told == [("note", first.id)], "said once"


def test_one_that_can_never_get_its_memory_keeps_the_others_waiting_so_long_and_no_longer(tmp_path: Path) -> None:
    first, second = job(1), job(2)
    machine = Machine(tmp_path, [first, second], {first.id: TAKEN, second.id: FREE})
    rounds(machine, tmp_path, 4)
    assert (machine.state(first), machine.state(second)) == ("failed", "running")
    assert machine.jobs[first.id].error == (
        "it has waited 1500 s in vain until 100 MiB are free (still in memory: large)"
    )
    assert ("give back", first.id) in machine.told, "what has left for it comes back"


def test_one_waits_for_others_that_run_however_long(tmp_path: Path) -> None:
    running, waiting = job(1, "running", attempt=1), job(2)
    for loan, told in ((TAKEN, "still in memory"), (BEYOND, "until other jobs have ended: 100 MiB are wanted")):
        home = tmp_path / told
        machine = Machine(home, [running, waiting], {waiting.id: loan})
        rounds(machine, home, 9, jobs_at_once=2)
        assert machine.state(waiting) == "queued"
        assert told in (machine.jobs[waiting.id].note or "")


def test_one_does_not_fail_for_what_comes_back_but_for_what_never_does(tmp_path: Path) -> None:
    """Others may have memory of which this foreman knows nothing: it was just begun."""
    one = job(1)
    machine = Machine(tmp_path, [one], {one.id: BEYOND})
    rounds(machine, tmp_path, 9)
    assert machine.state(one) == "queued"
    machine.loans[one.id] = NEVER
    rounds(machine, tmp_path)
    assert machine.state(one) == "failed"
    assert "for variants that stay" in (machine.jobs[one.id].error or "")


def test_small_ones_do_not_pass_a_large_one_however_many_may_run(tmp_path: Path) -> None:
    running, large, small = job(1, "running", attempt=1), job(2), job(3)
    machine = Machine(tmp_path, [running, large, small], {large.id: BEYOND, small.id: FREE})
    rounds(machine, tmp_path, 3, jobs_at_once=3)
    assert (machine.state(large), machine.state(small)) == ("queued", "queued")
    machine.loans[large.id] = FREE
    rounds(machine, tmp_path, 2, jobs_at_once=3)
    assert (machine.state(large), machine.state(small)) == ("running", "running")


def test_what_residency_has_not_heard_is_said_again(tmp_path: Path) -> None:
    gone, waiting = job(1), job(2)
    machine = Machine(tmp_path, [gone, waiting], {gone.id: TAKEN, waiting.id: TAKEN})
    looks = foreman(machine, tmp_path)
    looks._rules = FinetuningRules(memory_mb=100)

    async def go() -> None:
        await looks.once()
        machine.jobs[gone.id] = replace(gone, state="cancelled")
        machine.deaf = True
        await looks.once()
        machine.deaf = False
        await looks.once()
        await looks.once()

    asyncio.run(go())
    assert machine.told.count(("give back", gone.id)) == 2


def test_no_job_fails_because_residency_is_away(tmp_path: Path) -> None:
    one = job(1)
    machine = Machine(tmp_path, [one], {one.id: OSError("Residency does not answer")})
    rounds(machine, tmp_path, 9)
    assert machine.state(one) == "queued"
    assert "until Residency answers" in (machine.jobs[one.id].note or "")
