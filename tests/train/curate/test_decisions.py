"""The owner's log: only appended to, whole lines only, undone by more lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.curate.making import talk
from train.conversation import DataError, Message
from train.curate.decisions import Decision, DecisionLog, Standing, read_decisions

CHAT = talk("q", "a", id="one")


def decided(verdict: str, **more: object) -> Decision:
    given = {"by": "owner", "conversation": "one", "digest": CHAT.digest(), "verdict": verdict}
    return Decision.model_validate({**given, **more})


def test_it_is_there_for_the_next_who_opens_it(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "deep" / "log.jsonl")
    log.add(decided("tag", tags=("x",)))
    log.add(decided("reject", reason="dull"))
    assert log.undo() is not None
    before = log.path.read_bytes()
    again = DecisionLog(log.path)
    assert [each.verdict for each in again.standing()] == ["tag"]
    again.add(decided("accept"))
    assert log.path.read_bytes().startswith(before)
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_off_is_not_there(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    log.add(decided("accept"))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole[: len(whole) // 2])
    again = DecisionLog(log.path)
    assert len(again.standing()) == 1
    again.add(decided("reject"))
    assert [each.verdict for each in read_decisions(log.path)] == ["accept", "reject"]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"by": "owner"}\n')
    with pytest.raises(DataError, match=r"log.jsonl, line 1: conversation: "):
        DecisionLog(tmp_path / "log.jsonl")


def test_undo_with_nothing_to_undo(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    assert log.undo() is None
    assert not log.path.exists()


@given(st.lists(st.sampled_from(["accept", "reject", "undo"]), max_size=12))
def test_undo_takes_back_the_last_that_stands(verdicts: list[str]) -> None:
    log = DecisionLog(Path("none.jsonl"))
    log._lines = [decided(each) for each in verdicts]
    stack: list[str] = []
    for each in verdicts:
        if each != "undo":
            stack.append(each)
        elif stack:
            stack.pop()
    assert [each.verdict for each in log.standing()] == stack


def test_what_stands() -> None:
    turns = (Message(role="user", content="Q"), Message(role="assistant", content="A"))
    made = Standing(
        [
            decided("reject"),
            decided("accept"),
            decided("edit", messages=turns),
            decided("tag", tags=("a", "b")),
            decided("accept", conversation="two"),
            decided("accept", digest="another"),
            decided("drop", by="length"),
        ],
        [CHAT],
    )
    verdict = made.verdict("one")
    assert verdict is not None
    assert verdict.verdict == "accept"
    assert made.accepted == {"one"}
    assert made.stale == 2
    applied = made.applied(CHAT)
    assert (applied.messages, applied.tags, applied.id) == (turns, ("a", "b"), "one")
