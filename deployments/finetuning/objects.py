"""Jobs, their events and files as OpenAI's objects. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from configs.training import JobEvent
from deployments.finetuning.job import OVER, Job, StoredFile

LEVELS = {"info": "info", "warning": "warn", "error": "error"}
MOST_POINTS = 500
"""Of a curve."""


def job_object(job: Job) -> FineTuningJob:
    """`fine_tuning.job`."""
    hyperparameters = job.asked.get("hyperparameters") or {}
    method = job.asked.get("method") or {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    error = {"code": "training_failed", "message": job.error or "", "param": None}
    left = job.progress.get("eta_seconds")
    at = job.progress.get("at")
    return FineTuningJob.model_validate(
        {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": int(job.created),
            "finished_at": _seconds(job.finished),
            "estimated_finish": int(at + left) if job.state == "running" and at and left is not None else None,
            "error": error if job.state == "failed" else None,
            "fine_tuned_model": job.model if job.state == "succeeded" else None,
            "hyperparameters": {name: value for name, value in hyperparameters.items() if name != "beta"},
            "method": method,
            "metadata": job.asked.get("metadata"),
            "model": job.asked.get("model") or job.spec.base,
            "organization_id": "groupqwen",
            "result_files": [],
            "seed": job.spec.seed,
            "status": job.state,
            "trained_tokens": None,
            "training_file": job.asked.get("training_file") or f"dataset:{job.asked.get('dataset')}",
            "validation_file": job.asked.get("validation_file"),
        }
    )


def event_object(job_id: str, event: JobEvent) -> FineTuningJobEvent:
    """`fine_tuning.job.event`."""
    return FineTuningJobEvent.model_validate(
        {
            "id": f"{job_id}-event-{event.seq}",
            "object": "fine_tuning.job.event",
            "created_at": int(event.at),
            "level": _level(event),
            "message": said(event),
            "type": "metrics" if event.kind in ("progress", "evaluation") else "message",
            "data": event.data,
        }
    )


def _level(event: JobEvent) -> str:
    if event.kind == "state" and event.data.get("state") == "failed":
        return "error"
    return LEVELS.get(str(event.data.get("level")), "info") if event.kind == "log" else "info"


def said(event: JobEvent) -> str:
    """An event in words."""
    data = event.data
    match event.kind:
        case "state":
            error = data.get("error")
            return (
                f"The job {_STATES.get(str(data.get('state')), data.get('state'))}{f': {error}' if error else ''}"
            )
        case "stage":
            return f"Stage: {data.get('stage')}"
        case "progress":
            return f"Step {data.get('step')}/{data.get('steps')}: training loss={_short(data.get('loss'))}"
        case "evaluation":
            return f"Step {data.get('step')}: validation loss={_short(data.get('loss'))}"
        case "checkpoint":
            return f"Checkpoint at step {data.get('step')}"
        case "log":
            return str(data.get("message", ""))


_STATES = {"running": "runs", "succeeded": "has succeeded", "failed": "has failed", "stopped": "has stopped"}


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "?"


def checkpoint_object(job: Job, event: JobEvent, losses: Mapping[str, Any]) -> FineTuningJobCheckpoint:
    """`fine_tuning.job.checkpoint`. `losses`: as they were by then, under OpenAI's names."""
    step = int(event.data.get("step") or 0)
    return FineTuningJobCheckpoint.model_validate(
        {
            "id": f"{job.id}-checkpoint-{event.seq}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(event.at),
            "fine_tuned_model_checkpoint": f"{job.model}:step-{step}",
            "fine_tuning_job_id": job.id,
            "metrics": {"step": step, **losses},
            "step_number": step,
        }
    )


def file_object(file: StoredFile) -> FileObject:
    """`file`."""
    return FileObject.model_validate(
        {
            "id": file.id,
            "object": "file",
            "bytes": file.bytes,
            "created_at": int(file.created),
            "filename": file.filename,
            "purpose": "fine-tune",
            # (Not of OpenAI's: who sees everybody's must see whose it is.)
            "key_id": file.key_id,
            "status": "processed",
        }
    )


def curve_of(events: Sequence[JobEvent]) -> dict[str, list[list[float]]]:
    """[step, loss] of training and of the validation set, at most so many points of each, the last among them. Of
    a step that was done twice (before and after a resumption) the later counts."""
    points: dict[str, dict[int, float]] = {"progress": {}, "evaluation": {}}
    for event in events:
        step, loss = event.data.get("step"), event.data.get("loss")
        if event.kind in points and isinstance(step, int) and isinstance(loss, int | float):
            points[event.kind][step] = loss
    return {"training": _thinned(points["progress"]), "validation": _thinned(points["evaluation"])}


def _thinned(points: dict[int, float]) -> list[list[float]]:
    all_of_them = [[step, points[step]] for step in sorted(points)]
    stride = -(-len(all_of_them) // MOST_POINTS) or 1
    return all_of_them[::-1][::stride][::-1]


def is_over(job: Job, last_seq: int) -> bool:
    """Whether nothing comes after this event."""
    return job.state in OVER and last_seq >= job.last_seq


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
