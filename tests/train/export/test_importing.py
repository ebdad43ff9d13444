"""A whole import: what it writes, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from train.conversation import DataError, read_conversations
from train.export.importing import Import, name_for, write_import
from train.export.report import MOST_REASONS, OTHER_REASONS, Report
from train.export.turns import clean, fenced, moment, replaced


def chat(question: str, answer: str = "A.", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def write(path: Path, *chats: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in chats))
    return path


def test_ids_are_unique_and_the_same_is_there_once(tmp_path: Path) -> None:
    """An older and a newer export of the same: nothing is lost."""
    old = write(tmp_path / "old.jsonl", chat("One?", id=1), chat("Two?", id=2))
    new = write(
        tmp_path / "new.jsonl", chat("One?", id=1), chat("Two, or three?", id=2), chat("Four?"), chat("Four?")
    )
    importing = Import()
    found = list(importing.files([old, new]))
    assert [one.id for one in found][:2] == ["messages-1", "messages-2"]
    assert found[2].id.startswith("messages-2~") and len({one.id for one in found}) == len(found) == 4
    said = importing.report.as_dict()
    assert said["left"]["conversations"]["it is there already"]["count"] == 2
    assert list(said["noticed"]) == [
        "another conversation has its id: both were taken (an earlier export of the same?)"
    ]
    assert [one.id for one in Import().files([new, old])][1] == "messages-2"


def test_what_is_older_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", chat("Old?", at=1e9), chat("New?", at=1.7e9), chat("When?"))
    importing = Import(since=1.6e9)
    assert [one.messages[0].content for one in importing.files([path])] == ["New?"]
    left = importing.report.left["conversations"]
    assert {why: tally.count for why, tally in left.items()} == {"it is older": 1, "its date is not known": 1}


def test_a_form_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [], "instruction": "Add.", "output": "2"})
    assert [one.source for one in Import("alpaca").files([path])] == ["alpaca"]
    with pytest.raises(DataError, match="there is no format 'word'; there are chatgpt, claude"):
        Import("word")


def test_an_import_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    good, folder = write(tmp_path / "a.jsonl", chat("One?")), tmp_path / "imports"
    importing = Import()
    path = write_import(folder, "mine", importing, importing.files([good]))
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    importing = Import()
    with pytest.raises(DataError, match="no conversation"):
        write_import(folder, "mine", importing, importing.files([write(tmp_path / "b.jsonl", {"a": 1})]))

    def interrupted() -> Any:
        yield next(read_conversations(path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_import(folder, "mine", Import(), interrupted())
    assert path.read_text() == before
    assert sorted(one.name for one in folder.iterdir()) == ["mine.jsonl", "mine.report.json"]
    with pytest.raises(DataError, match="is no name"):
        write_import(folder, "../mine", Import(), iter(()))


def test_one_file_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK\x03\x04 and no more")
    importing = Import()
    found = list(importing.files([bad, write(tmp_path / "a.jsonl", chat("One?")), tmp_path / "gone"]))
    assert len(found) == 1
    assert ["download it again" in why for why in importing.report.left["files"]] == [True, False]


def test_one_large_object_is_looked_into(tmp_path: Path) -> None:
    """Of which the conversations are a part; also one that is longer than what is looked at as a whole."""
    many = [chat(f"no. {n}? {'x' * 400}") for n in range(5000)]
    path = tmp_path / "a.json"
    for value in ({"about": {"a": [1]}, "conversations": many}, {"conversations": many[:3], "version": 1}):
        path.write_text(json.dumps(value))
        assert len(list(Import().files([path]))) == len(value["conversations"])  # type: ignore[arg-type]
    path.write_text(json.dumps(chat("One?")))
    assert len(list(Import().files([path]))) == 1
    path.write_text(json.dumps(chat("x" * (2 << 20)), indent=1))
    assert len(list(Import().files([path]))) == 1, "one whole conversation, a long one"
    turns = [{"from": who, "value": "x" * 600_000} for who in ("human", "gpt", "human", "gpt")]
    path.write_text(json.dumps({"conversations": turns}) + "\n" + json.dumps({"conversations": turns[:2]}))
    for form in (None, "sharegpt"):
        assert len(list(Import(form).files([path]))) == 2, "lines that look as if they held many"
    thread = [{"query": f"no. {n}?", "answer": "x" * 600_000} for n in range(3)]
    path.write_text(json.dumps({"metadata": {"thread_title": "Long"}, "conversations": thread}, indent=1))
    assert [len(one.messages) for one in Import().files([path])] == [6], "a long thread, on many lines"
    path.write_text("\n".join(json.dumps(one) for one in many[:20]) + "\n")
    assert len(list(Import().files([path]))) == 20, "lines, whatever the name says"
    path.write_text(json.dumps(chat("y" * (2 << 20))) + "\n" + json.dumps(chat("Two?")) + "\n")
    assert len(list(Import().files([path]))) == 2, "of which the first is a long one"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("My Export (1).zip", "my-export-1"),
        ("conversations.json", "conversations"),
        ("..", "import"),
        ("ÄÖ", "import"),
    ],
)
def test_an_import_is_named_after_its_file(path: str, name: str) -> None:
    assert name_for(Path(path)) == name


def test_a_report_is_bounded() -> None:
    report = Report()
    for number in range(1000):
        report.leave("parts", f"of an unknown kind: {number}", "somewhere")
    assert len(report.left["parts"]) == MOST_REASONS + 1
    assert report.left["parts"][OTHER_REASONS].count == 1000 - MOST_REASONS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1.5e9, 1.5e9),
        (1.5e12, 1.5e9),
        (1.5e18, 1.5e9),
        ("2017-07-14T02:40:00Z", 1.5e9),
        ("2017-07-14T02:40:00.000000", 1.5e9),
        ("soon", None),
        ("0001-01-01T00:00:00", None),
        (True, None),
        (None, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ([], None),
    ],
)
def test_moments(value: object, seconds: float | None) -> None:
    assert moment(value) == seconds


def test_texts_are_cleaned_and_cut_in_one_pass() -> None:
    assert clean("a\x00b \ud83d\ude00 \ud83d") == "ab 😀 �"
    assert fenced("```", "py") == "````py\n```\n````"
    assert fenced("x", "a b\nc") == "```\nx\n```"
    assert replaced("a<b>c</b>d<b>e", "<b>", "</b>", str.upper) == "aCd<b>e"
    began = time.process_time()
    replaced("<b>" * 1_000_000, "<b>", "</b>", str)
    assert time.process_time() - began < 5
