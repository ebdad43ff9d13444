"""A job's own copy of its dataset: the owner may curate it anew, in the same place, while the job rests."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.training import JobSpec
from train.conversation import DataError

PINNED = "dataset"
"""In the job's folder: where one of uploaded files is anyway."""
FILES = ("train.jsonl", "validation.jsonl", "tasks.jsonl", "canaries.jsonl")


def pin(spec: JobSpec, folder: Path) -> JobSpec:
    """The job as it learns and is evaluated: from its copy, which is made once, whole.

    Raises `OSError`, and `DataError` where there is no train.jsonl.
    """
    target = folder / PINNED
    if not target.is_dir():
        if not (spec.dataset / FILES[0]).is_file():
            raise DataError(f"{spec.dataset}: has no {FILES[0]}")
        staged = folder / f".{PINNED}.new"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700)
        for name in FILES:
            if (source := spec.dataset / name).is_file():
                shutil.copyfile(source, staged / name)
                (staged / name).chmod(0o600)
        staged.rename(target)
    return spec.model_copy(update={"dataset": target})
