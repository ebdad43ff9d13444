"""`/v1/finetune/…`: fine-tuning jobs, for keys with the scope `finetune`. A key sees its own; one with the scope
`admin` sees all."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from configs.training import JOB_ID, JobEvent
from deployments.contract import ChatError
from deployments.finetuning.asked import Start
from deployments.finetuning.job import Job, State
from deployments.finetuning.objects import is_over, said
from serve_app.admission import admission, followed, paced
from serve_app.errors import CONFLICT, DISK_FULL
from serve_app.keys import ApiKey
from serve_app.parts import asked

routes = APIRouter(dependencies=[Depends(paced)])
streams = APIRouter(dependencies=[Depends(followed)])

JobId = Annotated[str, Path(pattern=JOB_ID)]
After = Annotated[str | None, Query(max_length=64, pattern=r"^[a-z0-9-]+$", description="The last one so far.")]

KEEP_ALIVE_SECONDS = 10.0
STREAM_SECONDS = 300.0
"""After which a stream of events ends, and its reader comes again with the last one's number."""
MOST_LOG_BYTES = 1 << 20


class Progress(BaseModel):
    """How far a job is; null: it has not said."""

    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = Field(None, description="On what it learns from.")
    validation_loss: float | None = Field(None, description="On what is kept from it.")
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    memory_mb: float | None = None
    eta_seconds: float | None = Field(None, description="Until its last step.")
    checkpoint: int | None = Field(None, description="The step from which it would go on.")


class FinetuneJob(BaseModel):
    """A fine-tuning job. Times are Unix seconds."""

    id: str
    state: State
    key_id: str
    base: str
    name: str = Field(description="Of the adapter that it makes.")
    model: str = Field(description="By which that is asked, once it is there and promoted.")
    recipe: dict[str, Any]
    dataset: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    created: float
    started: float | None = None
    finished: float | None = None
    attempt: int = Field(description="Times that a process was started for it.")
    stage: str | None = Field(None, description="prepare, train, export, evaluate, publish.")
    progress: Progress
    error: str | None = None
    note: str | None = Field(None, description="What it waits for, or was given.")
    cancelling: bool = Field(False, description="It was told to stop and has not yet.")


class FinetuneDetails(FinetuneJob):
    """With its place in the queue and its curve."""

    place: int | None = Field(None, description="How many come before it; null where it does not wait.")
    curve: dict[str, list[list[float]]] = Field(
        description="[step, loss]: `training`, and `validation`; at most 500 points of each."
    )


class FinetuneJobs(BaseModel):
    jobs: list[FinetuneJob]
    has_more: bool


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


def seen_by(request: Request) -> str | None:
    """The key whose jobs and files are meant; None: all."""
    return owner_of(request.state.key)


def owner_of(key: ApiKey) -> str | None:
    """The same of a key."""
    return None if "admin" in key.scopes else key.id


def shown(job: Job) -> dict[str, Any]:
    """A job's fields, for `FinetuneJob`."""
    numbers = {name: value for name, value in job.progress.items() if name in Progress.model_fields}
    return {
        "id": job.id,
        "state": job.state,
        "key_id": job.key_id,
        "base": job.spec.base,
        "name": job.spec.name,
        "model": job.model,
        "recipe": job.spec.recipe.model_dump(mode="json"),
        **{name: job.asked.get(name) for name in ("dataset", "training_file", "validation_file")},
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "attempt": job.attempt,
        "stage": job.stage,
        "progress": numbers,
        "error": job.error,
        "note": job.note,
        "cancelling": job.state == "running" and job.cancel is not None,
    }


@routes.post("/v1/finetune/start", responses=CONFLICT | DISK_FULL)
async def start(body: Start, request: Request) -> FinetuneJob:
    """Start a job, or have it wait for its turn."""
    key: ApiKey = request.state.key
    again = body.model_dump(include={"dataset", "training_file", "validation_file", "recipe"})
    job = await asked("finetuning", "start", body, key.id, again, key.variants, "admin" in key.scopes)
    return FinetuneJob.model_validate(shown(job))


@routes.get("/v1/finetune")
async def jobs(
    request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> FinetuneJobs:
    """Your jobs, the newest first."""
    found, more = await asked("finetuning", "jobs", seen_by(request), after, limit)
    return FinetuneJobs.model_validate({"jobs": [shown(job) for job in found], "has_more": more})


@routes.get("/v1/finetune/{job_id}")
async def job(job_id: JobId, request: Request) -> FinetuneDetails:
    """One job: how far it is, and its loss so far."""
    found = await asked("finetuning", "job", job_id, seen_by(request))
    return FinetuneDetails.model_validate(
        {**shown(found["job"]), "place": found["place"], "curve": found["curve"]}
    )


@routes.post("/v1/finetune/{job_id}/cancel")
async def cancel(job_id: JobId, request: Request) -> FinetuneJob:
    """Stop a job: at once where it waits, else at its next step, with a checkpoint from which it can go on."""
    return FinetuneJob.model_validate(shown(await asked("finetuning", "cancel", job_id, seen_by(request))))


@routes.post("/v1/finetune/{job_id}/resume", responses=CONFLICT)
async def resume(job_id: JobId, request: Request) -> FinetuneJob:
    """Let a job that was cancelled or has failed go on from its last checkpoint, when its turn comes."""
    return FinetuneJob.model_validate(shown(await asked("finetuning", "resume", job_id, seen_by(request))))


@routes.get("/v1/finetune/{job_id}/logs", response_class=PlainTextResponse)
async def logs(
    job_id: JobId,
    request: Request,
    most: Annotated[int, Query(ge=1, le=MOST_LOG_BYTES, description="Bytes, of the end.")] = 1 << 16,
) -> PlainTextResponse:
    """The end of what its processes have printed."""
    return PlainTextResponse(await asked("finetuning", "logs", job_id, seen_by(request), most))


@streams.get("/v1/finetune/{job_id}/events", response_class=EventStream)
async def events(
    job_id: JobId,
    request: Request,
    last_event_id: Annotated[
        int | None, Header(ge=-1, lt=2**31, description="The number of the last event that was read.")
    ] = None,
) -> EventStream:
    """What happens to it, as server-sent events: `id` is the event's number, `event` its kind (state, stage,
    progress, evaluation, checkpoint, log), `data` what it says. After an `end`, whose data is the job, nothing
    comes any more; a stream that ends without it is read on with `Last-Event-ID`."""
    after = -1 if last_event_id is None else last_event_id
    key: ApiKey = request.state.key
    owner = seen_by(request)
    # A job that is not there is told before the stream begins.
    found = await asked("finetuning", "events", job_id, owner, after, 500)
    return EventStream(_frames(job_id, key, after, found), headers={"cache-control": "no-cache"})


async def _frames(job_id: str, key: ApiKey, after: int, found: tuple[Job, list[JobEvent]]) -> AsyncIterator[str]:
    owner = owner_of(key)
    until = time.monotonic() + STREAM_SECONDS
    while True:
        job, new = found
        for event in new:
            yield _frame(event.kind, {"at": event.at, "said": said(event), **event.data}, event.seq)
            after = event.seq
        if is_over(job, after):
            yield _frame("end", FinetuneJob.model_validate(shown(job)).model_dump(mode="json"))
            return
        if time.monotonic() > until or not admission().goes_on(key):
            return
        if not new:
            yield ": keep-alive\n\n"
        try:
            found = await asked("finetuning", "events", job_id, owner, after, 500, wait=KEEP_ALIVE_SECONDS)
        except ChatError:
            # It, or PostgreSQL, is away: who reads comes again.
            return


def _frame(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    name = "" if number is None else f"id: {number}\n"
    return f"{name}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False, default=str)}\n\n"
