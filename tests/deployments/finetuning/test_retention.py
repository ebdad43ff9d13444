"""What jobs leave behind goes in time, and never of one that is at work or can go on."""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from configs.adapters import AdapterManifest, write_adapter
from configs.finetuning import FinetuningRules
from configs.home import Home
from configs.training import CLEARED, HEAVY, RUN_LOCK, EventLog, Recipe, write_spec
from deployments.finetuning.job import OVER, STATES
from deployments.finetuning.retention import DAY_SECONDS, Standing, clear, surplus, tidy, without_rows
from tests.deployments.finetuning.test_states import job

NOW = 1_790_000_000.0


def rules(keep_jobs: int = 2, keep_days: float = 7) -> FinetuningRules:
    return FinetuningRules(keep_jobs=keep_jobs, keep_days=keep_days)


def test_the_newest_of_each_kind_stay_and_what_stopped_stays_for_days() -> None:
    jobs = [Standing(f"done-{days}", "succeeded", NOW - days * DAY_SECONDS) for days in range(4)]
    jobs += [Standing(f"other-{days}", "succeeded", NOW - days * DAY_SECONDS, "key_2") for days in (50, 60)]
    jobs += [Standing(f"stopped-{days}", "failed", NOW - days * DAY_SECONDS) for days in (6, 8)]
    jobs += [Standing(f"many-{days}", "cancelled", NOW - days * DAY_SECONDS, "key_3") for days in range(4)]
    jobs += [Standing("waits", "queued", 0.0), Standing("runs", "running", 0.0)]
    assert surplus(jobs, rules(), NOW) == {"done-2", "done-3", "stopped-8", "many-2", "many-3"}
    assert surplus(jobs, rules(keep_jobs=9, keep_days=2.5), NOW) == {"stopped-6", "stopped-8", "many-3"}
    assert surplus(jobs, rules(keep_jobs=0), NOW) == {one.id for one in jobs} - {"waits", "runs"}


@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.floats(0, 40), st.sampled_from(("", "key_2"))), max_size=30),
    st.integers(0, 9),
    st.floats(0.1, 40),
)
def test_whatever_is_there_the_newest_and_all_under_way_are_kept(
    made: list[tuple[Any, float, str]], keep_jobs: int, keep_days: float
) -> None:
    jobs = [
        Standing(f"{at:02}", state, NOW - days * DAY_SECONDS, key) for at, (state, days, key) in enumerate(made)
    ]
    gone = surplus(jobs, rules(keep_jobs, keep_days), NOW)
    for one in jobs:
        days = (NOW - one.since) / DAY_SECONDS
        if one.state not in OVER:
            assert one.id not in gone
        elif one.state != "succeeded" and days > keep_days + 1e-6:
            assert one.id in gone
    for key, states in itertools.product(("", "key_2"), (("succeeded",), ("failed", "cancelled"))):
        mine = sorted(
            (one for one in jobs if one.key_id == key and one.state in states), key=lambda one: -one.since
        )
        left = [one for one in mine if one.id not in gone]
        assert len(left) <= keep_jobs
        assert left == mine[: len(left)]


def make(home: Home, number: int, *said: str) -> Path:
    """A job's folder, with something of all that can be in it."""
    spec = job(number).spec
    folder = home.training / "jobs" / spec.id
    write_spec(folder, spec)
    for name in HEAVY:
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "file").write_text("x")
    (folder / "output.log").write_text("said")
    for state in said:
        EventLog(folder).add("state", state=state)
    return folder


def ended() -> bool:
    return True


def test_its_spec_its_events_and_its_log_stay(tmp_path: Path) -> None:
    folder = make(Home(tmp_path), 1, "running", "succeeded")
    before = (folder / "spec.json").read_bytes(), (folder / "events.jsonl").read_bytes()
    assert clear(folder, ended)
    left = {path.name for path in folder.iterdir()}
    assert left == {"spec.json", "events.jsonl", ".events.lock", RUN_LOCK, "output.log", CLEARED}
    assert before == ((folder / "spec.json").read_bytes(), (folder / "events.jsonl").read_bytes())
    assert not clear(folder, ended), "there is nothing any more"
    assert not clear(tmp_path / "gone", ended)


def test_what_is_spared_stays_until_it_is_not(tmp_path: Path) -> None:
    folder = make(Home(tmp_path), 1, "succeeded")
    assert clear(folder, ended, {"dataset"})
    assert (folder / "dataset").is_dir() and not (folder / "storage").exists()
    assert not clear(folder, ended, {"dataset"})
    assert clear(folder, ended) and not (folder / "dataset").exists()


def test_one_that_a_process_is_at_work_in_is_left_alone(tmp_path: Path) -> None:
    folder = make(Home(tmp_path), 1)
    with FileLock(folder / RUN_LOCK):
        assert not clear(folder, ended)
    assert all((folder / name).is_dir() for name in HEAVY)
    assert not (folder / CLEARED).exists()


@pytest.mark.parametrize("error", [None, OSError("PostgreSQL is away")])
def test_one_that_goes_on_after_all_keeps_everything(tmp_path: Path, error: OSError | None) -> None:
    folder = make(Home(tmp_path), 1)

    def has_ended() -> bool:
        assert (folder / CLEARED).exists(), "who resumes it meanwhile sees that"
        if error is not None:
            raise error
        return False

    with nullcontext() if error is None else pytest.raises(OSError, match="away"):
        assert not clear(folder, has_ended)
    assert all((folder / name).is_dir() for name in HEAVY)
    assert not (folder / CLEARED).exists()


def test_jobs_without_a_row_are_what_they_said_last(tmp_path: Path) -> None:
    home = Home(tmp_path)
    done, failed, died, fresh = (
        make(home, number, *said)
        for number, said in enumerate((("running", "succeeded"), ("failed",), ("running",), ()))
    )
    os.utime(fresh, (NOW, NOW))
    known = make(home, 8, "succeeded").name
    (home.training / "jobs" / "notes").mkdir()
    clear(make(home, 9, "succeeded"), ended)
    found = {one.id: one for one in without_rows(home.training / "jobs", {known})}
    assert {name: one.state for name, one in found.items()} == {
        done.name: "succeeded",
        failed.name: "failed",
        died.name: "cancelled",
        fresh.name: "cancelled",
    }
    assert found[fresh.name].since == NOW


class Store:
    """Rows of some jobs; what of them is forgotten."""

    def __init__(self, *rows: Standing) -> None:
        self.rows, self.forgotten = rows, list[str]()

    async def standing(self) -> list[Standing]:
        return list(self.rows)

    async def has_ended(self, job_id: str) -> bool:
        return all(row.state in OVER for row in self.rows if row.id == job_id)

    async def forget_curve(self, job_id: str) -> None:
        self.forgotten.append(job_id)


@pytest.mark.parametrize("at_work", [False, True])
def test_rows_and_folders_are_tidied_together(tmp_path: Path, *, at_work: bool) -> None:
    home = Home(tmp_path)
    with_row, without_row, waits = make(home, 1, "succeeded"), make(home, 2, "succeeded"), make(home, 3)
    store = Store(Standing(with_row.name, "succeeded", NOW), Standing(waits.name, "queued", NOW))
    lock = FileLock(with_row / RUN_LOCK)
    if at_work:
        lock.acquire()
    cleared = asyncio.run(tidy(store, rules(keep_jobs=0, keep_days=1e6), home, NOW))  # type: ignore[arg-type]
    lock.release()
    assert cleared == store.forgotten == ([] if at_work else [with_row.name]) + [without_row.name]
    assert (with_row / "storage").exists() == at_work
    assert not (without_row / "storage").exists()
    assert (waits / "storage").exists()


def test_a_folder_that_cannot_be_read_holds_up_no_other_and_an_adapter_keeps_its_data(tmp_path: Path) -> None:
    home = Home(tmp_path)
    broken, done = make(home, 1), make(home, 2, "succeeded")
    (broken / "events.jsonl").mkdir()
    made = AdapterManifest(name="mine", base="small", created=NOW, job=done.name, data_hash="", recipe=Recipe())
    write_adapter(home.adapters / "mine", made)
    assert asyncio.run(tidy(Store(), rules(keep_jobs=0), home, NOW)) == [done.name]  # type: ignore[arg-type]
    assert (done / "dataset").is_dir() and not (done / "storage").exists()
