"""`/v1/fine_tuning/jobs`: the same jobs as OpenAI's clients know them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.training import load_recipes
from deployments.contract import ChatError, invalid
from deployments.finetuning.asked import Hyperparameters, Start, name_of, tuned
from deployments.finetuning.job import FILE_ID
from deployments.finetuning.objects import checkpoint_object, event_object, job_object
from serve_app.admission import paced
from serve_app.errors import CONFLICT, DISK_FULL
from serve_app.finetune_routes import After, JobId, seen_by
from serve_app.keys import ApiKey
from serve_app.parts import asked

routes = APIRouter(prefix="/v1/fine_tuning/jobs", dependencies=[Depends(paced)])

RECIPES = {"supervised": "reference", "dpo": "dpo"}
"""By OpenAI's methods."""


class OfMethod(BaseModel):
    model_config = ConfigDict(extra="ignore")

    hyperparameters: Hyperparameters = Field(default_factory=lambda: Hyperparameters.model_validate({}))


class Method(BaseModel):
    """OpenAI's `method`."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["supervised", "dpo", "reinforcement"] = Field(description="`reinforcement` is not offered.")
    supervised: OfMethod | None = None
    dpo: OfMethod | None = None


class CreateJob(BaseModel):
    """OpenAI's request. What it has beside (`integrations`) is ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field(max_length=200, description="A variant, or `ft:<base>:<name>`: an adapter to go on from.")
    training_file: str = Field(pattern=FILE_ID)
    validation_file: str | None = Field(None, pattern=FILE_ID)
    suffix: str | None = Field(
        None, max_length=64, description="The adapter's name; unset: one from the job's id."
    )
    seed: int | None = Field(None, ge=0, lt=2**31)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, description="Of before there was `method`.")
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )


class JobPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class EventPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FineTuningJobEvent]
    has_more: bool


class CheckpointPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FineTuningJobCheckpoint]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


Limit = Annotated[int, Query(ge=1, le=100)]


@routes.post("", responses=CONFLICT | DISK_FULL)
async def create(body: CreateJob, request: Request) -> FineTuningJob:
    """Start a job, or have it wait for its turn."""
    key: ApiKey = request.state.key
    kind = "supervised" if body.method is None else body.method.type
    if kind not in RECIPES:
        raise invalid("There is no fine-tuning by `reinforcement` here: supervised and dpo.", param="method")
    of_method = None if body.method is None else getattr(body.method, kind)
    wanted = (of_method.hyperparameters if of_method else body.hyperparameters) or Hyperparameters.model_validate(
        {}
    )
    recipe = RECIPES[kind]
    try:
        start = Start(
            base=body.model,
            # (A name of its own comes with the id, which is made where the job is.)
            name=name_of(body.suffix, request.state.request_id.replace("-", "")),
            training_file=body.training_file,
            validation_file=body.validation_file,
            recipe=recipe,
            overrides=tuned(load_recipes()[recipe], wanted),
            seed=42 if body.seed is None else body.seed,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise invalid(f"{first['loc'][0]}: {first['msg']}", param=str(first["loc"][0])) from None
    hyperparameters = wanted.model_dump()
    again = {
        **body.model_dump(include={"model", "training_file", "validation_file", "metadata"}),
        "hyperparameters": hyperparameters,
        "method": {"type": kind, kind: {"hyperparameters": hyperparameters}},
    }
    job = await asked("finetuning", "start", start, key.id, again, key.variants, "admin" in key.scopes)
    return job_object(job)


@routes.get("")
async def list_jobs(request: Request, after: After = None, limit: Limit = 20) -> JobPage:
    """Your jobs, the newest first."""
    found, more = await asked("finetuning", "jobs", seen_by(request), after, limit)
    return JobPage(data=[job_object(job) for job in found], has_more=more)


@routes.get("/{job_id}")
async def retrieve(job_id: JobId, request: Request) -> FineTuningJob:
    """One job."""
    return job_object(await asked("finetuning", "one", job_id, seen_by(request)))


@routes.post("/{job_id}/cancel")
async def cancel(job_id: JobId, request: Request) -> FineTuningJob:
    """Stop a job: at once where it waits, else at its next step."""
    return job_object(await asked("finetuning", "cancel", job_id, seen_by(request)))


@routes.post("/{job_id}/resume", responses=CONFLICT)
async def resume(job_id: JobId, request: Request) -> FineTuningJob:
    """Let a job that has stopped go on from its last checkpoint."""
    return job_object(await asked("finetuning", "resume", job_id, seen_by(request)))


@routes.get("/{job_id}/events")
async def list_events(job_id: JobId, request: Request, after: After = None, limit: Limit = 20) -> EventPage:
    """What happened to it, the last first."""
    before = _before(after, job_id)
    _, found = await asked("finetuning", "events", job_id, seen_by(request), before, limit + 1, newest=True)
    return EventPage(data=[event_object(job_id, event) for event in found[:limit]], has_more=len(found) > limit)


@routes.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: JobId, request: Request, after: After = None, limit: Limit = 10
) -> CheckpointPage:
    """Steps from which it would go on, the last first."""
    before = _before(after, job_id)
    job, found = await asked("finetuning", "checkpoints", job_id, seen_by(request), before, limit + 1)
    data = [checkpoint_object(job, event, losses) for event, losses in found[:limit]]
    ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
    return CheckpointPage(data=data, has_more=len(found) > limit, **ends)


def _before(after: str | None, job_id: str) -> int:
    """The number of the event that an id of ours names; -1: none."""
    if after is None:
        return -1
    number = after.rpartition("-")[2]
    if not after.startswith(job_id) or not number.isdecimal() or len(number) > 9:
        raise ChatError(f"There is no {after!r} of this job.", status=404, kind="not_found_error", param="after")
    return int(number)
