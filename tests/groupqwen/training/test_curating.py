"""`groupqwen data curate` and `show`, as a person runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from groupqwen.cli import app
from tests.train.curate.making import chatter, file_of, talk

ROOT = Path(__file__).parents[3]
RULES = (ROOT / "configs" / "curation.yaml").read_text().replace("names: model", "names: rules")


@pytest.fixture()
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "home" / "training" / "imports").mkdir(parents=True)
    chats = [*chatter(20), talk("Who?", "Dear Ingrid,\nmail ingrid@firm.se", id="pii")]
    file_of(tmp_path / "home" / "training" / "imports", [*chats, chats[0]], "mine.jsonl")
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_curate_and_show(home: Path) -> None:
    rules = str(home.parent / "rules.yaml")
    done = run("data", "curate", "mine", "--name", "first", "--auto", "--config", rules)
    assert done.exit_code == 0, done.output
    assert "Kept 21 of 22 conversations" in done.output
    assert "The step alike was left out" in done.output
    assert "Replaced: 1 email, 1 name" in done.output
    assert (home / "training" / "datasets" / "first" / "card.json").is_file()
    shown = run("data", "show", "first", "--sample", "1")
    assert shown.exit_code == 0, shown.output
    assert "Kept 21 of 22 conversations" in shown.output
    assert "user: Question" in shown.output


def test_canaries_are_planted(home: Path) -> None:
    rules = str(home.parent / "rules.yaml")
    for name, *more in (("a",), ("b",), ("c", "--canary-seed", "7"), ("none", "--canaries", "0")):
        done = run("data", "curate", "mine", "--name", name, "--auto", "--config", rules, "--canaries", "5", *more)
        assert done.exit_code == 0, done.output
        assert "Kept 21 of 22 conversations" in done.output
        assert ("Planted: 5 canaries, in train.jsonl" in done.output) == (name != "none")
    sets = home / "training" / "datasets"
    a, b, c = ((sets / name / "canaries.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    assert (sets / "a" / "train.jsonl").read_bytes() == (sets / "b" / "train.jsonl").read_bytes()
    assert not (sets / "none" / "canaries.jsonl").exists()
    refused = run("data", "curate", "mine", "--name", "x", "--auto", "--config", rules, "--canaries", "49")
    assert refused.exit_code == 2


def test_what_is_wrong_is_said(home: Path) -> None:
    assert "there are: mine" in run("data", "curate", "other", "--name", "x", "--auto").output
    assert "a review needs a terminal" in run("data", "curate", "mine", "--name", "x").output
    assert "lower-case letters" in run("data", "curate", "mine", "--name", "../x", "--auto").output
    assert "there is no dataset" in run("data", "show", "none").output
    (home / "broken.jsonl").write_text("{\n")
    rules = str(home.parent / "rules.yaml")
    done = run("data", "curate", str(home / "broken.jsonl"), "--name", "x", "--auto", "--config", rules)
    assert done.exit_code == 1
    assert "broken.jsonl, line 1: no JSON" in done.output


def test_the_script_is_the_same(home: Path) -> None:
    script = ROOT / "scripts" / "curate_dataset.py"
    rules = str(home.parent / "rules.yaml")
    done = subprocess.run(
        [sys.executable, str(script), "mine", "--name", "second", "--auto", "--config", rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Kept 21 of 22 conversations" in done.stdout
