"""A dataset's files as rows: what is left out and why, and errors that name file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.training import Method, Recipe
from tests.train.tiny import make_dataset, make_tokenizer, write_lines
from train.conversation import DataError
from train.format.prepare import prepare, read_report, told
from train.format.rows import RowMaker

GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer is all that is read of it."""
    folder = tmp_path_factory.mktemp("base")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("method", "bad", "says"),
    [
        ("sft", "{", "train.jsonl, line 3: no JSON"),
        ("sft", {"messages": []}, "train.jsonl, line 3: messages: is empty"),
        ("sft", {"messages": [{"role": "user", "content": "a"}]}, "line 3: messages: no turn is the assistant's"),
        ("sft", {"messages": [{"role": "boss", "content": "a"}]}, "line 3: messages.0.role: Input should be"),
        ("sft", {"messages": [{"role": "assistant"}]}, "line 3: messages.0.content: Field required"),
        (
            "sft",
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
            "line 3: messages.1.content: is empty",
        ),
        ("dpo", GOOD | {"rejected": " "}, "line 3: rejected: is empty"),
        ("dpo", GOOD | {"rejected": "b"}, "line 3: rejected: is the same"),
        (
            "kto",
            {"rating": "up", "messages": [*GOOD["messages"], {"role": "user", "content": "c"}]},
            "line 3: messages: the last turn must be the assistant's",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_field(
    tmp_path: Path, method: Method, bad: str | dict[str, Any], says: str
) -> None:
    path = tmp_path / "train.jsonl"
    write_lines(path, [GOOD | {"rejected": "c", "rating": "up"}])
    line = bad if isinstance(bad, str) else json.dumps(bad)
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(DataError, match=says):
        list(RowMaker(method, make_tokenizer(), 999).rows(path))


def test_prepare_says_what_became_of_every_conversation(tmp_path: Path, base: Path) -> None:
    data = make_dataset(tmp_path / "data", count=4, held_out=1)
    long = {"messages": [{"role": "user", "content": "a" * 400}, {"role": "assistant", "content": "b"}]}
    hostile = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "b"}]}
    half = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "it is " * 90}]}
    good = (data / "train.jsonl").read_text()
    write_lines(data / "train.jsonl", [long, hostile, half])
    (data / "train.jsonl").write_text(good + (data / "train.jsonl").read_text())
    report = prepare(data, base, Recipe(max_length=120), tmp_path / "prepared")
    assert (report["train"]["conversations"], report["train"]["rows"]) == (7, 5)
    assert (report["validation"]["rows"], report["train"]["cut"]) == (1, 2)
    assert report["train"]["left_out"] == {
        "its answers begin beyond 120 tokens": 1,
        "it holds one of the model's control tokens": 1,
    }
    says = [message for level, message in told(report) if level == "warning"]
    assert any("2 longer than 120 tokens were cut" in message for message in says)
    assert read_report(tmp_path / "prepared") == report
    # Same data, same hash; and what is there is not made again.
    again = prepare(data, base, Recipe(max_length=120), tmp_path / "again")
    assert again == report
    (data / "train.jsonl").unlink()
    assert prepare(data, base, Recipe(max_length=120), tmp_path / "prepared") == report


def test_rows_of_pairs_and_of_thumbs(tmp_path: Path) -> None:
    path = make_dataset(tmp_path, count=2, held_out=0) / "train.jsonl"
    [first, _] = RowMaker("dpo", make_tokenizer(), 999).rows(path)
    assert first == {
        "prompt": [{"role": "user", "content": "what is the sum of 0 and 0"}],
        "chosen": [{"role": "assistant", "content": "it is 0, sir."}],
        "rejected": [{"role": "assistant", "content": "no idea 0"}],
    }
    thumbs = list(RowMaker("kto", make_tokenizer(), 999).rows(path))
    assert [(row["completion"][0]["content"], row["label"]) for row in thumbs[:2]] == [
        ("it is 0, sir.", True),
        ("no idea 0", False),
    ]


@pytest.mark.parametrize(
    ("method", "why"), [("dpo", "no conversation has `rejected`"), ("kto", "no conversation has `rating`")]
)
def test_a_dataset_without_a_row_for_the_method(tmp_path: Path, base: Path, method: Method, why: str) -> None:
    write_lines(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(DataError, match=why):
        prepare(tmp_path, base, Recipe(method=method), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
