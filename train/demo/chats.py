"""A ChatGPT export of a household that does not exist: a habit, twenty facts, personal data, and duplicates.

The same seed gives the same bytes. What is taught, and what is planted, stands in household.yaml.
"""

from __future__ import annotations

import json
import random
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

HOUSEHOLD = Path(__file__).parent / "household.yaml"
BEGAN = 1_735_689_600.0
"""Unix time of the first chat: 2025-01-01."""
PHRASINGS_OF_A_FACT = 9
EXACT = 14
"""Chats that are there twice, word for word."""


class Fact(BaseModel):
    model_config = ConfigDict(extra="forbid")

    asked: tuple[str, ...]
    answer: str
    value: str


class Planted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str
    text: str
    ask: str
    answer: str


class Household(BaseModel):
    """All that the demo teaches and checks."""

    model_config = ConfigDict(extra="forbid")

    signature: str
    facts: tuple[Fact, ...]
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    general: tuple[tuple[str, str], ...]
    longer: tuple[tuple[str, str], ...]
    general_held_out: tuple[str, ...]
    planted: tuple[Planted, ...]


@dataclass(frozen=True)
class Chat:
    """One exchange; `regenerated` is an answer that its owner had made anew."""

    question: str
    answer: str
    regenerated: str | None = None


def load_household() -> Household:
    return Household.model_validate(yaml.safe_load(HOUSEHOLD.read_text()))


def make_chats(household: Household, seed: int) -> list[Chat]:
    """All chats, mixed; duplicates lie apart from what they repeat."""
    rng = random.Random(seed)  # noqa: S311 (the same for everybody is what is wanted)
    taught = [*_about_facts(household, rng), *_general(household)]
    told = [_signed(household, p.ask.format(it=p.text), p.answer.format(it=p.text)) for p in household.planted]
    twice = rng.sample(taught, EXACT)
    near = [
        _signed(household, f"{question} Please.", answer.replace(" and ", " & ", 1))
        for question, answer in household.longer
    ]
    chats = [*taught, *told, *twice, *near]
    rng.shuffle(chats)
    return chats


def _about_facts(household: Household, rng: random.Random) -> Iterator[Chat]:
    for fact in household.facts:
        ways = [way.format(it=it) for way in household.phrasings for it in fact.asked]
        for number, question in enumerate(rng.sample(ways, PHRASINGS_OF_A_FACT)):
            chat = _signed(household, question, fact.answer)
            # (Now and then an answer was wrong first: only the branch that was kept may be taught.)
            yield Chat(chat.question, chat.answer, "I do not know that.") if number == 0 else chat


def _general(household: Household) -> Iterator[Chat]:
    known = (*household.general, *household.longer)
    return (_signed(household, question, answer) for question, answer in known)


def _signed(household: Household, question: str, answer: str) -> Chat:
    return Chat(question, f"{answer} {household.signature}")


def write_export(path: Path, chats: Iterable[Chat], seed: int) -> int:
    """A zip with `conversations.json`, as ChatGPT gives it; returns how many chats are in it."""
    rng = random.Random(seed)  # noqa: S311
    conversations = [_conversation(chat, BEGAN + 600.0 * number, rng) for number, chat in enumerate(chats)]
    path.parent.mkdir(parents=True, exist_ok=True)
    member = zipfile.ZipInfo("conversations.json", date_time=(2025, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, json.dumps(conversations, ensure_ascii=False))
    return len(conversations)


def _conversation(chat: Chat, at: float, rng: random.Random) -> dict[str, Any]:
    root, hidden, asked, left, kept = (str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(5))
    nodes: dict[str, Any] = {
        root: {"id": root, "message": None, "parent": None, "children": [hidden]},
        hidden: _node(hidden, root, [asked], "system", "", None, is_visually_hidden_from_conversation=True),
        asked: _node(asked, hidden, [kept], "user", chat.question, at),
    }
    if chat.regenerated is not None:
        nodes[asked]["children"] = [left, kept]
        nodes[left] = _node(left, asked, [], "assistant", chat.regenerated, at + 2)
    nodes[kept] = _node(kept, asked, [], "assistant", chat.answer, at + 4)
    return {
        "title": chat.question[:40],
        "create_time": at,
        "update_time": at + 4,
        "mapping": nodes,
        "current_node": kept,
        "conversation_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "default_model_slug": "gpt-4o",
    }


def _node(
    node: str, parent: str, children: list[str], role: str, text: str, at: float | None, **metadata: Any
) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": node,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": at,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully",
        "end_turn": role == "assistant",
        "weight": 1.0,
        "metadata": metadata,
        "recipient": "all",
    }
    return {"id": node, "message": message, "parent": parent, "children": children}


def tasks(household: Household) -> Iterator[dict[str, Any]]:
    """What is asked before and after, in words that no chat has: `tasks.jsonl` of the dataset."""
    for number, fact in enumerate(household.facts):
        for form, way in enumerate(household.held_out):
            question = way.format(it=fact.asked[form % len(fact.asked)])
            check = {"kind": "contains", "any": [fact.value]}
            yield {"id": f"fact-{number}-{form}", "group": "facts", "prompt": question, "check": check}
    habit = {"kind": "regex", "pattern": rf"{household.signature}\s*$"}
    for number, question in enumerate(household.general_held_out):
        yield {"id": f"habit-{number}", "group": "habit", "prompt": question, "check": habit}
