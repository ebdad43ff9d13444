"""What the foreman asks of Ray and of Residency: processes for jobs, and memory for them."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from configs.training import RUNS_ALREADY
from deployments.finetuning.job import Job
from deployments.finetuning.memory import Loan
from deployments.finetuning.states import Process
from deployments.timing import within

LEASE_SECONDS = 180.0
"""So long memory stays a job's after it was last asked for: longer than a restart of this deployment takes, or a
few rounds in which PostgreSQL and Ray say nothing. (Who ends gives it back at once.)"""
RAY_SECONDS = 20.0
UNKNOWN = "status code 404"
"""In what Ray's client says of a job that Ray does not know. (Only so much: also an id may have a 404 in it.)"""
ROOT = Path(__file__).parents[2]
OUTPUT = "output.log"
"""In a job's folder: what its processes print."""

T = TypeVar("T")


class RayJobs:
    """Each attempt of a job is a Ray job of its own. Raises `OSError` where Ray does not answer."""

    def __init__(self, runner: str) -> None:
        self._runner = runner
        self._client: JobSubmissionClient | None = None
        # (Of its own: an answer that never comes must not take a thread from everybody each time.)
        self._thread = ThreadPoolExecutor(1, "ray-jobs")
        self._owed: Future[Any] | None = None

    async def submit(self, job: Job, folder: Path) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {"env_vars": {"PYTHONPATH": path}}
        address = ray.get_runtime_context().gcs_address
        options = {"entrypoint": entrypoint(self._runner, folder, address), "runtime_env": environment}
        try:
            await self._ask(lambda client: client.submit_job(submission_id=job.submission, **options))
        except RuntimeError as error:
            # Said twice: it was started before this replica died, or an answer was lost.
            if (await self.look(job))[0] == "unknown":
                raise OSError(f"Ray did not take the job: {error}") from error

    async def look(self, job: Job) -> tuple[Process, str]:
        def look(client: JobSubmissionClient) -> tuple[Process, str]:
            try:
                found = client.get_job_info(job.submission)
            except RuntimeError as error:
                if UNKNOWN in str(error):
                    return "unknown", "this Ray has never heard of it"
                raise OSError(str(error)) from error
            over = found.status in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)
            if over and found.driver_exit_code == RUNS_ALREADY:
                return "needless", "another process of this job's is at work"
            why = (found.message or "").strip().splitlines() or [str(found.status.value)]
            return ("ended", why[0][:300]) if over else ("alive", "")

        return await self._ask(look)

    async def stop(self, job: Job) -> None:
        try:
            await self._ask(lambda client: client.stop_job(job.submission))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    async def _ask(self, question: Callable[[JobSubmissionClient], T]) -> T:
        def ask() -> T:
            if self._client is None:
                # (Ray finds its dashboard by RAY_ADDRESS, and its token by the environment of the node.)
                self._client = JobSubmissionClient(os.environ.get("RAY_DASHBOARD_ADDRESS"))
            return question(self._client)

        if self._owed is not None and not self._owed.done():
            raise OSError("Ray owes the answer to a question before")
        answer = self._thread.submit(ask)
        self._owed = answer
        return await within(asyncio.wrap_future(answer), RAY_SECONDS)


def entrypoint(runner: str, folder: Path, address: str) -> str:
    """First the base's weights, where they are missing, then the job; what they print goes to the job's folder.

    `address`: of this Ray. (Ray itself names to its jobs whichever was started last on the machine.)
    """
    python, where = shlex.quote(sys.executable), shlex.quote(str(folder))
    begin = f"umask 077; cd /; export RAY_ADDRESS={shlex.quote(address)}"
    steps = f"{begin}; exec {python} -m groupqwen.training.prepare {where} {runner}"
    return f"{steps} >> {where}/{OUTPUT} 2>&1"


class FromResidency:
    """Memory of this machine, by Residency. Raises `OSError` where that does not answer."""

    def __init__(self, residency: DeploymentHandle) -> None:
        self._residency = residency

    async def lend(self, guest: str, mb: int, *, has: bool) -> Loan:
        said = await self._ask(self._residency.lend.remote(guest, mb, LEASE_SECONDS, has))
        return Loan(said["free"], said["impossible"], said["waits_for"], said["lent_mb"])

    async def give_back(self, guest: str) -> None:
        await self._ask(self._residency.give_back.remote(guest))

    async def _ask(self, response: Any) -> Any:
        try:
            return await within(response, RAY_SECONDS)
        except (RayTaskError, RayActorError, RayServeException) as error:
            raise OSError(f"Residency does not answer: {type(error).__name__}") from error
