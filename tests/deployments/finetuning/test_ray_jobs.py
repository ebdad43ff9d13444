"""Questions to Ray's dashboard, which may never answer: a stand-in's here."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.finetuning import ray_jobs
from deployments.finetuning.ray_jobs import RayJobs
from tests.deployments.finetuning.test_states import job


def asked(client: Any) -> RayJobs:
    jobs = RayJobs("runner")
    jobs._client = client
    return jobs


def test_only_its_own_404_says_that_ray_does_not_know_a_job() -> None:
    def says(text: str) -> RayJobs:
        def get_job_info(_: str) -> None:
            raise RuntimeError(text)

        return asked(SimpleNamespace(get_job_info=get_job_info))

    gone = says("Request failed with status code 404: Job ftjob-1 does not exist.")
    assert asyncio.run(gone.look(job()))[0] == "unknown"
    with pytest.raises(OSError, match="500"):
        asyncio.run(says("Request failed with status code 500: node 5404ab is away.").look(job()))


def test_one_question_is_outstanding_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asks, end, questions = threading.Event(), threading.Event(), []

    def stop_job(name: str) -> None:
        questions.append(name)
        asks.set()
        end.wait(30)

    async def ask() -> None:
        jobs = asked(SimpleNamespace(stop_job=stop_job))
        first = asyncio.create_task(jobs.stop(job()))
        await asyncio.to_thread(asks.wait)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(OSError, match="owes the answer"):
            await jobs.stop(job())
        end.set()
        assert jobs._owed is not None
        await asyncio.wrap_future(jobs._owed)
        await jobs.stop(job())
        assert len(questions) == 2
        end.clear()
        monkeypatch.setattr(ray_jobs, "RAY_SECONDS", 0.05)
        with pytest.raises(TimeoutError):
            await jobs.stop(job())
        end.set()

    asyncio.run(ask())
