"""What may follow what: which jobs start, what becomes of one whose process has ended. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from configs.finetuning import FinetuningRules
from deployments.contract import ChatError, invalid
from deployments.finetuning.job import OVER, FileRoom, Job, State

Process = Literal["alive", "ended", "unknown", "needless"]
"""Of a Ray job. `unknown` to this cluster: it was of one before, or never begun. `needless`: it ended at once,
because another process of the same job's is at work."""


@dataclass(frozen=True)
class Verdict:
    """What a job is from now on. `why`: of a failure its error, of one that goes on why it must. `deaths`: in a
    row, without a new checkpoint."""

    state: State
    why: str | None = None
    deaths: int = 0


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Those that wait, the first first. (One that died keeps its place.)"""
    return sorted((job for job in jobs if job.state == "queued"), key=lambda job: (job.queued, job.id))


def startable(jobs: Sequence[Job], at_once: int) -> list[Job]:
    """Those that may start now."""
    running = sum(job.state == "running" for job in jobs)
    return in_order(jobs)[: max(0, at_once - running)]


def place(job: Job, jobs: Sequence[Job]) -> int | None:
    """How many come before it; None where it does not wait."""
    ids = [other.id for other in in_order(jobs)]
    return ids.index(job.id) if job.id in ids else None


def after_the_end(job: Job, said: dict[str, Any] | None, why: str, *, advanced: bool, resumptions: int) -> Verdict:
    """What becomes of a running job whose process is gone. `said`: the last state that it told in this attempt;
    `why`: what Ray says of its end; `advanced`: whether it has left a new checkpoint."""
    before = 0 if advanced else job.deaths
    state = None if said is None else said.get("state")
    if state == "succeeded":
        return Verdict("succeeded")
    if state == "failed":
        return Verdict("failed", str((said or {}).get("error") or "it did not say why"))
    if job.cancel is not None:
        return Verdict("cancelled")
    if state == "stopped":
        # By nobody's wish but the machine's: it left a checkpoint and goes on.
        return Verdict("queued", "it was stopped with its machine", before)
    deaths = before + 1
    if deaths > resumptions:
        return Verdict("failed", f"its process died {deaths} times in a row; the last time: {why}", deaths)
    return Verdict("queued", f"its process died ({why})", deaths)


def without_a_start(job: Job, said: dict[str, Any] | None) -> Verdict:
    """What becomes of a job of which another process, of an attempt before, is at work: it waits for that one, and
    that is no death. `said`: as above."""
    state = None if said is None else said.get("state")
    if state in ("succeeded", "failed"):
        return after_the_end(job, said, "", advanced=True, resumptions=0)
    return Verdict("queued", None, job.deaths)


def check_cancel(job: Job) -> None:
    """Raise a 400 for a job that has ended."""
    if job.state in OVER:
        raise invalid(f"The job {job.id} has ended: it {job.state}.", code="job_has_ended")


def check_resume(job: Job, *, cleared: bool) -> None:
    """Raise a 400 for a job that cannot go on. `cleared`: its checkpoints were removed."""
    if job.state not in ("failed", "cancelled"):
        raise invalid(
            f"The job {job.id} is {job.state}: what failed or was cancelled can go on.", code="not_stopped"
        )
    if cleared:
        raise invalid(
            f"The job {job.id} ended long ago and its checkpoints were removed: start a new one.",
            code="job_cleared",
        )


def unknown_job(job_id: str) -> ChatError:
    """A 404."""
    return ChatError(
        f"There is no job {job_id!r} of yours.", status=404, kind="not_found_error", code="no_such_job"
    )


def check_file_room(rules: FinetuningRules, there: FileRoom, more: int) -> None:
    """Raise a `ChatError` where a key may not keep so many bytes more.

    Its own quota is a 403: nothing is wrong with the request, and no waiting helps, as a 429 would say (and have
    clients send it all again); the disk is not full either, as a 507 would say. What all together may have is a
    413."""
    if there.own_files >= rules.key_files:
        raise _over_quota(f"This key may keep {rules.key_files} files, and has {there.own_files}")
    if there.own_bytes + more > rules.key_files_bytes:
        raise _over_quota(
            f"The files of this key may take {rules.key_files_bytes} bytes, and take {there.own_bytes}"
        )
    if there.bytes + more > rules.files_bytes:
        raise ChatError(
            f"All files together may take {rules.files_bytes} bytes: delete some first.",
            status=413,
            kind="invalid_request_error",
            code="storage_full",
        )


def _over_quota(message: str) -> ChatError:
    return ChatError(f"{message}: delete some first.", status=403, kind="permission_error", code="file_quota")


def disk_full() -> ChatError:
    """A 507."""
    return ChatError(
        "This machine's disk is full: delete some files, datasets or adapters first.",
        status=507,
        kind="server_error",
        code="storage_full",
    )


@contextmanager
def told_when_full() -> Iterator[None]:
    """What the disk raises when it is full, as a 507: it is nothing that comes back by itself."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        raise


def unknown_file(file_id: str, param: str | None = None) -> ChatError:
    """A 404."""
    return ChatError(
        f"There is no file {file_id!r} of yours.",
        status=404,
        kind="not_found_error",
        code="no_such_file",
        param=param,
    )
