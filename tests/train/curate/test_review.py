"""The review, by its keys."""

from __future__ import annotations

from pathlib import Path

from textual.widgets import Input, ProgressBar, Static, TextArea

from tests.train.curate.making import chatter
from train.curate.decisions import DecisionLog
from train.curate.review import ReviewApp
from train.curate.steps import Entry


def entries(count: int = 3, left_out: int = 0) -> list[Entry]:
    made = [Entry(each, each, each.digest()) for each in chatter(count + left_out)]
    for entry in made[count:]:
        entry.dropped_by, entry.reason = "length", "too short"
    return made


def stands(log: DecisionLog) -> list[tuple[str, str]]:
    return [(each.conversation, each.verdict) for each in log.standing()]


def where(app: ReviewApp) -> str:
    return str(app.query_one("#where", Static).render())


async def test_to_the_end(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    app = ReviewApp(entries(), log)
    async with app.run_test() as pilot:
        assert where(app).startswith("1 of 3 · 3 open · open")
        await pilot.press("a", "r")
        assert where(app).startswith("3 of 3 · 1 open")
        assert app.query_one("#bar", ProgressBar).progress == 2
        await pilot.press("a")
    assert app.return_value is True
    assert stands(log) == [("c0", "accept"), ("c1", "reject"), ("c2", "accept")]


async def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = ReviewApp(entries(), DecisionLog(path))
    async with first.run_test() as pilot:
        await pilot.press("a", "q")
    assert first.return_value is False
    second = ReviewApp(entries(), DecisionLog(path))
    async with second.run_test() as pilot:
        assert where(second).startswith("2 of 3 · 2 open")
        await pilot.press("r", "a")
    assert second.return_value is True
    assert stands(DecisionLog(path)) == [("c0", "accept"), ("c1", "reject"), ("c2", "accept")]


async def test_undo_goes_back_to_it(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    app = ReviewApp(entries(), log)
    async with app.run_test() as pilot:
        await pilot.press("u", "a", "r", "u")
        assert where(app).startswith("2 of 3 · 2 open · open")
        await pilot.press("u")
        assert where(app).startswith("1 of 3 · 3 open")
        await pilot.press("q")
    assert stands(log) == []
    assert len(log.path.read_text().splitlines()) == 4


async def test_edit_a_turn_and_tag(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    app = ReviewApp(entries(1), log)
    async with app.run_test() as pilot:
        await pilot.press("j", "e")
        app.screen.query_one(TextArea).text = "Better [bold]so[/bold]."
        await pilot.press("ctrl+s")
        assert app.conversation is not None
        assert app.conversation.messages[1].content == "Better [bold]so[/bold]."
        assert "Better [bold]so[/bold]." in str(app.query_one("#told", Static).render())
        await pilot.press("e", "escape", "t")
        app.screen.query_one(Input).value = "good, good , short"
        await pilot.press("enter")
        assert app.conversation.tags == ("good", "short")
        await pilot.press("R")
        app.screen.query_one(Input).value = "dull"
        await pilot.press("enter")
    assert app.return_value is True
    assert [(each.verdict, each.reason) for each in log.standing()] == [
        ("edit", "turn 2"),
        ("tag", ""),
        ("reject", "dull"),
    ]


async def test_bring_back_what_was_left_out(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    app = ReviewApp(entries(1, left_out=1), log)
    async with app.run_test() as pilot:
        await pilot.press("d")
        assert "left out: too short" in where(app)
        await pilot.press("a", "d")
        assert where(app).startswith("1 of 1 · 1 open")
        await pilot.press("a")
    assert stands(log) == [("c1", "accept"), ("c0", "accept")]


async def test_accept_the_rest_help_and_moving(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    app = ReviewApp(entries(4), log)
    async with app.run_test() as pilot:
        await pilot.press("question_mark")
        assert "undo the last decision" in str(app.screen.query_one(Static).render())
        await pilot.press("x", "n", "n", "p")
        assert where(app).startswith("2 of 4")
        await pilot.press("r", "A")
    assert app.return_value is True
    assert stands(log) == [("c1", "reject"), ("c0", "accept"), ("c2", "accept"), ("c3", "accept")]


async def test_nothing_to_look_at(tmp_path: Path) -> None:
    app = ReviewApp(entries(0), DecisionLog(tmp_path / "log.jsonl"))
    async with app.run_test() as pilot:
        await pilot.press("a", "e", "t", "j", "q")
    assert app.return_value is True
