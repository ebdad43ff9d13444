"""`groupqwen data import` and `data list`: what a person sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groupqwen.cli import app

ROOT = Path(__file__).parents[2]
CHAT = {"messages": [{"role": "user", "content": "[b]Q?"}, {"role": "assistant", "content": "A."}]}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "home"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_files_are_imported_and_listed(tmp_path: Path, own_home: Path) -> None:
    assert run("list") == (0, "Nothing was imported yet: `groupqwen data import FILE...`")
    path = tmp_path / "My chats.jsonl"
    path.write_text(json.dumps(CHAT | {"title": "[red]it"}) + "\n" + json.dumps(CHAT) + "\n{\n")
    code, said = run("import", str(path))
    assert code == 0 and "1 conversations with 2 messages" in said
    assert "it is there already" in said and "it is no JSON" in said
    assert (own_home / "training" / "imports" / "my-chats.jsonl").is_file()
    assert (own_home / "training" / "imports" / "my-chats.report.json").is_file()
    code, said = run("list")
    assert code == 0 and "my-chats" in said and "messages" in said


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ((), 2, "name a file, or say --ledger"),
        (("gone.zip",), 2, "there is no such file"),
        (("bad.jsonl", "--as", "word"), 2, "there is no format 'word'"),
        (("bad.jsonl",), 1, "bad.jsonl: it is no JSON"),
        (("good.jsonl", "--name", "../x"), 1, "is no name"),
        (("good.jsonl", "--since", "2020-01-01"), 1, "its date is not known"),
        (("--ledger",), 1, "nothing has been started here yet"),
    ],
)
def test_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text("{]")
    (tmp_path / "good.jsonl").write_text(json.dumps(CHAT))
    found, said = run("import", *arguments)
    assert found == code and why in said


def test_the_script_does_the_same(tmp_path: Path, own_home: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(CHAT))
    command = [sys.executable, "scripts/export_chat_history.py", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (own_home / "training" / "imports" / "a.jsonl").is_file()
