"""A dataset on disk: train.jsonl, validation.jsonl, decisions.jsonl, card.json, README.md and histograms.png;
where secrets were planted, canaries.jsonl.

It is written beside its place and then put there in one step: there is no half of one. Same content, same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from train.conversation import Conversation, write_conversations
from train.curate.card import Card, Part, readme
from train.curate.decisions import Decision
from train.curate.plots import histograms
from train.data_hash import data_hash
from train.evaluate.canaries import FILE, Canary, write_canaries

TRAIN = "train.jsonl"
VALIDATION = "validation.jsonl"


def write_dataset(
    target: Path,
    train: Sequence[Conversation],
    validation: Sequence[Conversation],
    decisions: Iterable[Decision],
    card: Callable[[Part, Part, str], Card],
    canaries: Sequence[Canary] = (),
) -> Card:
    """Replace `target`. `card` makes the card of both parts and the data's hash; `canaries`: those in `train`.
    Raises `OSError`."""
    staged = target.with_name(f".{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, mode=0o700)
    first, second = _write(staged / TRAIN, train), _write(staged / VALIDATION, validation)
    made = card(first, second, data_hash(staged))
    _text(staged / "decisions.jsonl", "".join(_line(each) + "\n" for each in decisions))
    _text(staged / "card.json", json.dumps(made.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")
    _text(staged / "README.md", readme(made))
    histograms(train, validation, staged / "histograms.png")
    (staged / "histograms.png").chmod(0o600)
    if canaries:
        write_canaries(staged, canaries)
        (staged / FILE).chmod(0o600)
    _put(staged, target)
    return made


def _write(path: Path, conversations: Sequence[Conversation]) -> Part:
    write_conversations(path, conversations)
    messages = [message for each in conversations for message in each.messages]
    return Part(
        conversations=len(conversations),
        messages=len(messages),
        answers=sum(message.role == "assistant" and message.weight > 0 for message in messages),
        letters=sum(len(message.content) for message in messages),
        pairs=sum(each.rejected is not None for each in conversations),
        liked=sum(each.rating == "up" for each in conversations),
        disliked=sum(each.rating == "down" for each in conversations),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _line(decision: Decision) -> str:
    told = decision.model_copy(update={"at": None}).model_dump(mode="json", exclude_defaults=True)
    return json.dumps(told, ensure_ascii=True, sort_keys=True)


def _text(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _put(staged: Path, target: Path) -> None:
    """A folder that is not empty cannot be renamed over: the old one steps aside, and comes back if that fails."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    try:
        staged.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
