"""The queue, and what becomes of jobs whose process has ended."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.finetuning import FinetuningRules
from configs.training import JobSpec
from deployments.contract import ChatError
from deployments.finetuning.job import FileRoom, Job, State
from deployments.finetuning.states import (
    Verdict,
    after_the_end,
    check_cancel,
    check_file_room,
    check_resume,
    in_order,
    place,
    startable,
    told_when_full,
    without_a_start,
)


def job(number: int = 1, state: State = "queued", **fields: Any) -> Job:
    job_id = f"ftjob-{number:024x}"
    spec = JobSpec(
        id=job_id, name="habit", base="small", weights=Path("/w"), dataset=Path("/d"), adapters=Path("/a")
    )
    return Job(
        **{
            "id": job_id,
            "key_id": "key_1",
            "created": float(number),
            "queued": float(number),
            "state": state,
            "spec": spec,
            **fields,
        }
    )


def test_jobs_start_in_order_as_many_as_may_run() -> None:
    jobs = [job(3), job(1), job(2, "running"), job(4, "succeeded")]
    assert startable(jobs, 1) == []
    assert startable(jobs, 2) == [jobs[1]]
    assert startable(jobs, 9) == [jobs[1], jobs[0]]
    assert [place(one, jobs) for one in jobs] == [1, 0, None, None]


def test_each_key_has_room_of_its_own_for_files() -> None:
    rules = FinetuningRules.model_validate({"key_files": 2, "key_files_bytes": 10, "files_bytes": 20})

    def told(there: FileRoom, more: int) -> tuple[int, str | None] | None:
        try:
            check_file_room(rules, there, more)
        except ChatError as error:
            return error.status, error.code
        return None

    assert told(FileRoom(bytes=12, own_files=1, own_bytes=4), 6) is None
    assert told(FileRoom(bytes=4, own_files=2, own_bytes=4), 1) == (403, "file_quota")
    assert told(FileRoom(bytes=4, own_files=1, own_bytes=4), 7) == (403, "file_quota")
    assert told(FileRoom(bytes=19, own_files=1, own_bytes=4), 2) == (413, "storage_full")


def test_one_that_died_keeps_its_place_and_one_that_was_resumed_comes_last() -> None:
    died, resumed, other = job(1), job(2, queued=100.0), job(3)
    assert in_order([other, resumed, died]) == [died, other, resumed]


def end(
    one: Job, said: dict[str, Any] | None, *, advanced: bool = False, why: str = "killed", resumptions: int = 2
) -> Verdict:
    return after_the_end(one, said, why, advanced=advanced, resumptions=resumptions)


def test_what_it_said_itself_counts() -> None:
    running = job(state="running")
    assert end(running, {"state": "succeeded"}) == Verdict("succeeded")
    assert end(running, {"state": "failed", "error": "NaN"}) == Verdict("failed", "NaN")
    told = replace(running, cancel=1.0)
    assert end(told, {"state": "stopped"}) == Verdict("cancelled")
    assert end(told, {"state": "succeeded"}).state == "succeeded", "it was faster"


def test_one_that_was_ended_after_it_was_told_to_stop_is_cancelled() -> None:
    assert end(job(state="running", cancel=1.0), {"state": "running"}) == Verdict("cancelled")


def test_one_that_was_stopped_by_nobody_s_wish_goes_on() -> None:
    verdict = end(job(state="running", deaths=2), {"state": "stopped"})
    assert (verdict.state, verdict.deaths) == ("queued", 2)


def test_one_that_died_goes_on_so_many_times() -> None:
    running = job(state="running")
    for deaths in (1, 2):
        verdict = end(running, {"state": "running"})
        assert (verdict.state, verdict.deaths) == ("queued", deaths)
        running = replace(running, deaths=verdict.deaths)
    assert end(running, None) == Verdict("failed", "its process died 3 times in a row; the last time: killed", 3)
    assert end(running, None, advanced=True) == Verdict("queued", "its process died (killed)", 1)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_what_is_under_way_can_be_cancelled_and_not_resumed(state: State) -> None:
    check_cancel(job(state=state))
    with pytest.raises(ChatError, match=f"is {state}"):
        check_resume(job(state=state), cleared=False)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_has_stopped_can_be_resumed_and_not_cancelled(state: State) -> None:
    check_resume(job(state=state), cleared=False)
    with pytest.raises(ChatError, match="has ended"):
        check_cancel(job(state=state))


def test_what_has_lost_its_checkpoints_cannot_go_on() -> None:
    with pytest.raises(ChatError, match="its checkpoints were removed") as refused:
        check_resume(job(state="cancelled"), cleared=True)
    assert (refused.value.status, refused.value.code) == (400, "job_cleared")


def test_what_has_succeeded_is_left_alone() -> None:
    for check in (check_cancel, lambda one: check_resume(one, cleared=False)):
        with pytest.raises(ChatError) as refused:
            check(job(state="succeeded"))
        assert refused.value.status == 400


def test_an_attempt_beside_one_that_goes_on_is_no_death() -> None:
    one = job(1, "running", deaths=2)
    assert without_a_start(one, None) == Verdict("queued", None, 2)
    assert without_a_start(one, {"state": "running"}) == Verdict("queued", None, 2)
    assert without_a_start(one, {"state": "succeeded"}) == Verdict("succeeded")
    assert without_a_start(one, {"state": "failed", "error": "no"}) == Verdict("failed", "no")


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(ChatError) as refused, told_when_full():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (refused.value.status, refused.value.code) == (507, "storage_full")
    with pytest.raises(PermissionError), told_when_full():
        raise PermissionError(errno.EACCES, "no")
