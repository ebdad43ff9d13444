"""The demo's chats: what is taught is checkable, and what is checked is in no chat."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from configs.curation import NearDuplicates, Pii, load_curation
from train.demo.chats import EXACT, load_household, make_chats, tasks, write_export
from train.demo.rules import rules_of
from train.evaluate.regression import suite
from train.evaluate.tasks import read_tasks
from train.export.importing import Import

HOUSEHOLD = load_household()
CHATS = make_chats(HOUSEHOLD, 42)


def test_there_are_enough_chats_and_twenty_facts() -> None:
    assert len(CHATS) >= 200 and len(HOUSEHOLD.facts) == 20
    assert len(CHATS) - len({(chat.question, chat.answer) for chat in CHATS}) == EXACT
    assert all(chat.answer.endswith(HOUSEHOLD.signature) for chat in CHATS)
    asked = [sum(fact.answer in chat.answer for chat in CHATS) for fact in HOUSEHOLD.facts]
    assert min(asked) >= 9


def test_what_is_asked_before_and_after_is_in_no_chat() -> None:
    questions = {chat.question for chat in CHATS}
    assert not questions & {task["prompt"] for task in tasks(HOUSEHOLD)}
    # An answer as it was taught passes; one of the base's does not.
    habit = next(task["check"]["pattern"] for task in tasks(HOUSEHOLD) if task["group"] == "habit")
    assert re.search(habit, CHATS[0].answer) and not re.search(habit, "The capital of France is Paris.")


def test_what_the_regression_suite_asks_is_not_taught() -> None:
    asked = {task.question.casefold() for task in suite()}
    assert not asked & {chat.question.casefold() for chat in CHATS}
    assert not {task["prompt"] for task in tasks(HOUSEHOLD)} & {chat.question for chat in CHATS}


def test_the_tasks_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks(HOUSEHOLD)))
    assert len(read_tasks(path)) == 80


def test_the_export_is_the_same_of_the_same_seed_and_keeps_its_answers(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        assert write_export(tmp_path / name, make_chats(HOUSEHOLD, 42), 42) == len(CHATS)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    raw = zipfile.ZipFile(tmp_path / "one.zip").read("conversations.json").decode()
    assert raw.count("I do not know that.") >= 20, "branches that were left"
    taken = list(Import("chatgpt").files([tmp_path / "one.zip"]))
    assert [[m.content for m in one.messages] for one in taken] == [[c.question, c.answer] for c in CHATS]


def test_what_is_taught_is_kept_by_the_rules() -> None:
    rules = rules_of(load_curation(), HOUSEHOLD)
    by_step = {step.step: step for step in rules.steps}
    assert "alike" not in by_step
    near, pii = by_step["near-duplicates"], by_step["pii"]
    assert isinstance(near, NearDuplicates) and isinstance(pii, Pii)
    assert near.same == 0.88 and {"Otto", "Marigold", "Quill"} <= set(pii.keep)
