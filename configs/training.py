"""What a fine-tuning job is told, and what it tells: shared by those who start jobs and those who run them.

A job is a folder (`Home.training / "jobs" / id`), and nothing else has to outlive its processes:

| file | what |
| --- | --- |
| `spec.json` | `JobSpec`: what to do; written once, before anything starts |
| `events.jsonl` | `JobEvent`s, one a line, appended by whoever runs the job, numbered without gaps |
| `cancel` | there: stop at the next step, and leave a checkpoint |
| `storage/` | Ray Train's: checkpoints, from which the same job goes on |
| `dataset/` | its own copy of what it learns from |
| `result/` | the adapter, its exports and its report, once there are any |
| `cleared` | there: what takes room (`HEAVY`) was removed, long after its end; it cannot go on |

`python -m train.run FOLDER` runs it, or goes on with it. It exits with 0 (done), 1 (failed), 3 (stopped, and can
go on) or 4 (nothing was done: another process runs the job).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECIPES = Path(__file__).parent / "recipes.yaml"

DONE, FAILED, STOPPED, RUNS_ALREADY = 0, 1, 3, 4
"""Exit statuses of a job's process."""
ADAPTER_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Of an adapter: also of its folder."""
JOB_ID = r"^ftjob-[0-9a-f]{24}$"

HEAVY = ("storage", "result", "dataset", ".dataset.new")
"""In a job's folder: what takes room."""
CLEARED = "cleared"
RUN_LOCK = ".run.lock"
"""In a job's folder: held by the process that is at work in it."""

AdapterName = Annotated[str, Field(pattern=ADAPTER_NAME)]
Matrix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
"""By the name of its module."""
Method = Literal["sft", "dpo", "kto"]
Backend = Literal["auto", "unsloth", "peft"]
Form = Literal["merged", "merged-gguf", "awq", "gptq", "fp8"]
"""Base and adapter as one: safetensors, GGUF, or few bits for vLLM."""


class Recipe(BaseModel):
    """How to train. The defaults are the reference recipe."""

    # (JSON has no infinity: what is written must be what is read.)
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    note: str = Field("", pattern=r"^[^\x00]*$", description="What it is for, in a sentence.")
    method: Method = Field("sft", description="`sft`: from answers; `dpo`, `kto`: from thumbs.")
    rank: int = Field(128, ge=1, le=1024, description="Of the adapter's matrices.")
    alpha: int = Field(32, ge=1, le=4096, description="The adapter counts for alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[Matrix, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1, description="Which matrices get an adapter."
    )
    quantize: Literal["nf4", "none"] = Field("nf4", description="The base model's weights while it trains.")
    batch: int = Field(2, ge=1, le=1024, description="Conversations a step of one worker.")
    accumulation: int = Field(4, ge=1, le=1024, description="Steps before the weights change.")
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: float = Field(0.05, ge=0, lt=1, description="The share of all steps in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    epochs: float = Field(3, gt=0, le=100)
    max_steps: int | None = Field(None, ge=1, description="The end, whatever `epochs` says.")
    optimizer: Literal["adamw_8bit", "adamw_torch"] = "adamw_8bit"
    max_length: int = Field(
        2048, ge=16, le=1 << 20, description="Tokens of a conversation; what is beyond is cut."
    )
    packing: bool = Field(False, description="Several conversations in one row.")
    evaluate_every: int = Field(25, ge=1, description="Steps between two looks at the validation set.")
    patience: int | None = Field(3, ge=1, description="Stop after so many looks without gain; null: never.")
    checkpoint_every: int = Field(25, ge=1, description="Steps between two checkpoints.")
    report_every: int = Field(1, ge=1, description="Steps between two lines of progress.")
    beta: float = Field(0.1, gt=0, description="Of DPO and KTO: how near to the base it stays.")


class JobSpec(BaseModel):
    """One job. Paths are absolute, on the machine that runs it."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=JOB_ID)
    name: AdapterName = Field(description="Of the adapter that it makes.")
    base: str = Field(description="A variant of the catalog.")
    weights: Path = Field(description="The base model as transformers reads it.")
    base_gguf: Path | None = Field(None, description="The base model as llama.cpp serves it; null: it does not.")
    dataset: Path = Field(description="A folder with `train.jsonl` and, if there is one, `validation.jsonl`.")
    recipe: Recipe = Recipe()
    backend: Backend = "auto"
    workers: int = Field(1, ge=1, le=64, description="Processes that share each batch.")
    threads: int = Field(1, ge=1, le=256, description="Of each worker, on a CPU.")
    gpu: bool = Field(False, description="Whether a worker takes a GPU.")
    seed: int = 42
    parents: tuple[str, ...] = Field(
        (), description="The adapter that it goes on from: `NAME@VERSION`, as it was when the job was made."
    )
    adapters: Path = Field(description="The folder of all adapters, where the result is published.")
    evaluate: bool = Field(True, description="Also the checks that decide on promotion.")
    forms: tuple[Form, ...] = Field(
        (), description="To be made beside the adapter itself; more can be made later."
    )


EventKind = Literal["state", "stage", "progress", "evaluation", "checkpoint", "log"]


class JobEvent(BaseModel):
    """Something that happened.

    | kind | data |
    | --- | --- |
    | state | state: running, succeeded, failed, stopped; error; model (by which what was made is asked) |
    | stage | stage: prepare, train, export, evaluate, publish |
    | progress | step, steps, epoch, loss, learning_rate, grad_norm, tokens_per_second, memory_mb, eta_seconds |
    | evaluation | step, loss (of the validation set) |
    | checkpoint | step, path |
    | log | level (info, warning, error), message |
    """

    seq: int = Field(ge=0)
    at: float = Field(description="Unix time, seconds.")
    kind: EventKind
    data: dict[str, Any]


class EventLog:
    """Writes a job's events: any process that knows one. Cheap to make; can be sent to another process.

    There is one writer at a time: the driver, Ray Train's controller while workers train, or who starts and ends
    the job. But one that outlives a killed driver for a second must not spoil the numbers, so each writing takes a
    lock, and looks whether another has written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0
        self._size = -1
        """Of the file, when we wrote last."""

    def add(self, kind: EventKind, **data: Any) -> JobEvent:
        """Append one, on disk before this returns. Raises `OSError`."""
        path = self._folder / "events.jsonl"
        with FileLock(self._folder / ".events.lock"):
            if not path.exists() or path.stat().st_size != self._size:
                drop_half_line(path)
                self._next = max((event.seq for event in read_events(self._folder)), default=-1) + 1
            event = JobEvent(seq=self._next, at=time.time(), kind=kind, data=data)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
                file.write(event.model_dump_json() + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._next, self._size = event.seq + 1, path.stat().st_size
        return event


def read_events(folder: Path, after: int = -1) -> Iterator[JobEvent]:
    """Those whose number is beyond `after`, in order; a last line without its end is not there yet, and a damaged
    one is left out."""
    try:
        file = (folder / "events.jsonl").open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                event = JobEvent.model_validate_json(line)
            except ValidationError:
                continue
            if event.seq > after:
                yield event


def drop_half_line(path: Path) -> None:
    """Of a file of lines whose writer died in the middle of one: the next must not be its end."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return
    if whole and not whole.endswith(b"\n"):
        os.truncate(path, whole.rfind(b"\n") + 1)


def read_spec(folder: Path) -> JobSpec:
    """Raises `OSError`, or pydantic's `ValidationError`."""
    return JobSpec.model_validate_json((folder / "spec.json").read_text())


def write_spec(folder: Path, spec: JobSpec) -> None:
    """Make the job's folder. Raises `FileExistsError` where there is such a job."""
    folder.mkdir(parents=True, mode=0o700)
    staged = folder / "spec.json.new"
    staged.write_text(json.dumps(spec.model_dump(mode="json"), indent=2) + "\n")
    staged.replace(folder / "spec.json")


def load_recipes() -> dict[str, Recipe]:
    """Those of configs/recipes.yaml, by name."""
    return {name: Recipe.model_validate(given) for name, given in yaml.safe_load(RECIPES.read_text()).items()}
