"""The hash by which a dataset is known: in its card, in a job's report and in an adapter's manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILES = ("train.jsonl", "validation.jsonl")


def data_hash(folder: Path) -> str:
    """SHA-256 of what is learned from and what is held back: of both files, each with its name and its length; one
    that is not there counts as empty. Raises `OSError`."""
    whole = hashlib.sha256()
    for name in FILES:
        path = folder / name
        whole.update(f"{name} {path.stat().st_size if path.is_file() else 0}\n".encode())
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    whole.update(block)
    return whole.hexdigest()
