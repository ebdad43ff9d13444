"""Fine-tuning jobs on one machine, and the files that they learn from: a part of a profile."""

from __future__ import annotations

from pydantic import Field

from configs.document import Strict


class FinetuningRules(Strict):
    """What is answered when a limit is reached stands in each description."""

    jobs_at_once: int = Field(1, ge=1, le=64, description="Jobs that run at once; the others wait in order.")
    most_queued: int = Field(100, ge=1, description="Jobs that wait; beyond: 429.")
    most_workers: int = Field(4, ge=1, le=64, description="Processes of one job; beyond: 400.")
    resumptions: int = Field(
        3,
        ge=0,
        description="Times that a job that died goes on from its checkpoint; beyond, it has failed. A new "
        "checkpoint begins the count anew.",
    )
    cancel_seconds: float = Field(
        60, gt=0, description="Until a job that is cancelled has stopped by itself; beyond, it is ended."
    )
    memory_mb: int | None = Field(
        None,
        ge=0,
        description="What a job takes, MiB: asked of Residency where variants are swapped; elsewhere, where there "
        "is no room for it: 400. Unset: estimated from the base and the recipe. 0: it asks for nothing.",
    )
    memory_seconds: float = Field(
        1800,
        gt=0,
        description="How long a job whose turn it is waits for its memory while no other runs. Nobody passes it "
        "meanwhile, so that small jobs do not starve a large one; beyond, it has failed, so that it does not keep "
        "those behind it waiting for ever.",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a worker; unset: half of the cores, so that answers go on."
    )
    keep_jobs: int = Field(
        10,
        ge=0,
        description="Of each key the newest jobs that have succeeded, and as many that have stopped, whose "
        "checkpoints, data and curves stay; of older ones only what they were told and what they said. (Adapters "
        "are not touched, nor the data that one was made of.)",
    )
    keep_days: float = Field(
        30,
        gt=0,
        description="Days after which the same goes of a job that failed or was cancelled: so long it can go on.",
    )
    file_bytes: int = Field(512 * 2**20, gt=0, description="One uploaded file; beyond: 413.")
    files_bytes: int = Field(10 * 2**30, gt=0, description="All files together; beyond: 413 `storage_full`.")
    key_files: int = Field(
        1000, ge=1, description="Files of one key; beyond: 403 `file_quota`, until it deletes some."
    )
    key_files_bytes: int = Field(
        5 * 2**30, gt=0, description="All files of one key together; beyond: 403 `file_quota`."
    )
    streams: int = Field(
        8, ge=1, description="Streams of jobs' events that one key holds open at once; beyond: 429."
    )
    uploads: int = Field(4, ge=1, description="Uploads at once, of one Gateway; beyond: 429.")
    upload_seconds: float = Field(1800, gt=0, description="Until an upload is there; beyond: 408.")
    runner: str = Field(
        "train.run",
        pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$",
        description="The module that runs a job: `python -m MODULE FOLDER`.",
    )
