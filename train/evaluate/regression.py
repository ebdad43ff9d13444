"""Forgetting: questions of general ability that even a small base answers, and its loss on plain text. Both sets
are this project's own."""

from __future__ import annotations

import json
from pathlib import Path

from train.evaluate.held_out import held_out
from train.evaluate.rendering import text_row
from train.evaluate.subject import Loss, Subject
from train.evaluate.tasks import Task, read_tasks

SUITES = Path(__file__).parent / "suites"


def suite() -> list[Task]:
    """The questions."""
    return read_tasks(SUITES / "general.jsonl")


def texts() -> list[str]:
    """Paragraphs of prose, and a few lines of code."""
    lines = (SUITES / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def general_loss(subject: Subject) -> Loss:
    """Over all tokens of the texts but each one's first."""
    return held_out(subject, [text_row(subject.tokenizer, text, subject.most_tokens) for text in texts()])
