from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from groupqwen.cli import app
from groupqwen.outcomes import OutcomesError, read_outcomes

RUNNER = CliRunner()
CSV = (
    'question,model,correct,group\n"What, now?",small,0,a\n"What, now?",large,1,a\nHi,small,true,b\nHi,large,1,b\n'
)


def outcomes_file(path: Path, count: int, noise: float) -> Path:
    draw = np.random.default_rng(1)
    lines = []
    for number in range(count):
        hard = number % 2
        word = "integral" if hard else "colour"
        for model, right in (("small", 1 - hard), ("large", 1)):
            correct = int(right if draw.random() > noise else 1 - right)
            question = f"What is the {word} of {number}?"
            lines.append(json.dumps({"question": question, "model": model, "correct": correct}))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("gzipped", [False, True])
def test_csv_and_json_lines_say_the_same(tmp_path: Path, gzipped: bool) -> None:
    rows = [
        {"question": "What, now?", "model": "small", "correct": 0, "group": "a"},
        {"question": "What, now?", "model": "large", "correct": True, "group": "a"},
        {"question": "Hi", "model": "small", "correct": 1, "group": "b"},
        {"question": "Hi", "model": "large", "correct": 1.0, "group": "b"},
    ]
    texts = {"a.csv": CSV, "a.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n"}
    for name, text in texts.items():
        path = tmp_path / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(text.encode()) if gzipped else text.encode())
        found = read_outcomes(path)
        assert list(found.questions) == ["What, now?", "Hi"]
        assert {name: list(ok) for name, ok in found.right.items()} == {"small": [0, 1], "large": [1, 1]}
        assert found.groups == ["a", "b"]


def test_questions_that_not_all_have_answered_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(CSV + "Only small,small,1,c\n")
    assert list(read_outcomes(path).questions) == ["What, now?", "Hi"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"question,model,correct\nHi,small,perhaps\n", "line 2: it needs `question`"),
        ("a.csv", b"text,model\nHi,small\n", "line 2: it needs `question`"),
        ("a.csv", b"", "no question was answered by all of no models"),
        ("a.jsonl", b'{"question": "Hi"\n', "line 1: no JSON"),
        ("a.jsonl", b"[1]\n", "line 1: no JSON object"),
        ("a.csv.gz", b"not gzip", "cannot be read"),
        ("a.csv", b"question,model,correct\n\xff\xfe,small,1\n", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(OutcomesError, match=says):
        read_outcomes(path)
    with pytest.raises(OutcomesError, match="cannot be read"):
        read_outcomes(tmp_path / "none.csv")


def test_a_router_is_trained_shown_and_not_replaced_by_a_worse_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path / "home"))
    good, bad = outcomes_file(tmp_path / "good.jsonl", 200, 0.02), outcomes_file(tmp_path / "bad.jsonl", 200, 0.4)
    artifact = tmp_path / "home" / "router.npz"
    assert "makes one" in RUNNER.invoke(app, ["router", "show"], env={"COLUMNS": "300"}).output
    done = RUNNER.invoke(app, ["router", "train", "--from", str(good)])
    assert done.exit_code == 0, done.output
    assert "small → large: APGR" in done.output
    first = artifact.read_bytes()
    worse = RUNNER.invoke(app, ["router", "train", "--from", str(bad)], env={"COLUMNS": "300"})
    assert worse.exit_code == 1
    assert "stays; --force replaces it" in worse.output.replace("\n", " ")
    assert artifact.read_bytes() == first
    assert RUNNER.invoke(app, ["router", "train", "--from", str(bad), "--force"]).exit_code == 0
    assert artifact.read_bytes() != first
    assert "200 questions" in RUNNER.invoke(app, ["router", "show"]).output
    few = outcomes_file(tmp_path / "few.jsonl", 20, 0)
    refused = RUNNER.invoke(app, ["router", "train", "--from", str(few)], env={"COLUMNS": "300"})
    assert refused.exit_code == 2
    assert "20 outcomes are too few" in refused.output
