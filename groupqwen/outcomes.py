"""Outcomes from a file: which model answered which question right (docs/EVALUATION.md says the columns)."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deployments.classifier.training import Outcomes

LONGEST_FIELD = 2**22
RIGHT = {"1": 1.0, "true": 1.0, "1.0": 1.0, "0": 0.0, "false": 0.0, "0.0": 0.0}


class OutcomesError(ValueError):
    """A file that cannot be read as outcomes, with the line that it fails at."""


def read_outcomes(path: Path) -> Outcomes:
    """One line for each question and model: `question`, `model`, `correct`, and `group` if there is one. CSV or
    JSON lines, either may be gzipped. Questions that not all models have answered are left out. Raises
    `OutcomesError`."""
    # With scikit-learn, which takes longer to import than most who only read files take in all.
    from deployments.classifier.training import Outcomes

    rows = rows_of(path)
    answers: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    models: dict[str, None] = {}
    for line, row in rows:
        question, model = str(row.get("question") or "").strip(), str(row.get("model") or "").strip()
        correct = RIGHT.get(str(row.get("correct")).strip().lower())
        if not question or not model or correct is None:
            raise OutcomesError(f"{path}, line {line}: it needs `question`, `model` and `correct` (0 or 1)")
        answers.setdefault(question, {})[model] = correct
        groups[question] = str(row.get("group") or "")
        models[model] = None
    complete = [question for question, by_model in answers.items() if len(by_model) == len(models)]
    if not complete:
        raise OutcomesError(f"{path}: no question was answered by all of {', '.join(models) or 'no models'}")
    right = {name: np.array([answers[question][name] for question in complete]) for name in models}
    named = [groups[question] for question in complete]
    return Outcomes(complete, right, named if any(named) else None)


def read_families(path: Path) -> tuple[list[str], list[str]]:
    """Labelled questions: `question` and `category` on each line, in the same forms. One that comes twice counts
    once, so that none is both learned from and held out. Raises `OutcomesError`."""
    found: dict[str, str] = {}
    for line, row in rows_of(path):
        question, label = (str(row.get(name) or "").strip() for name in ("question", "category"))
        if not question or not label:
            raise OutcomesError(f"{path}, line {line}: it needs `question` and `category`")
        if found.setdefault(question, label) != label:
            raise OutcomesError(f"{path}, line {line}: this question was {found[question]!r} before")
    return list(found), list(found.values())


def rows_of(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """All rows of a file, each with its line. Raises `OutcomesError`."""
    try:
        return list(_rows(path))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise OutcomesError(f"{path} cannot be read: {error}") from error


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    zipped = path.suffix == ".gz"
    kind = Path(path.stem).suffix if zipped else path.suffix
    with path.open("rb") as file:
        raw = gzip.GzipFile(fileobj=file) if zipped else file
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        yield from _json_lines(path, text) if kind in (".jsonl", ".ndjson") else _csv(path, text)


def _json_lines(path: Path, text: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, written in enumerate(text, 1):
        if written.strip():
            try:
                row = json.loads(written)
            except ValueError as error:
                raise OutcomesError(f"{path}, line {line}: no JSON: {error}") from error
            if not isinstance(row, dict):
                raise OutcomesError(f"{path}, line {line}: no JSON object")
            yield line, row


def _csv(path: Path, text: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(text)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise OutcomesError(f"{path}, line {reader.line_num}: {error}") from error
