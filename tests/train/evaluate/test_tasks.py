"""Task files, and what counts as a right answer; programs run in the sandbox, hostile ones too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.evaluate import tiny
from train.conversation import DataError
from train.evaluate.asking import Result, accuracy, ask, by_group
from train.evaluate.regression import suite, texts
from train.evaluate.subject import Subject
from train.evaluate.tasks import Choice, Matches, Task, read_tasks


def task(check: dict[str, Any], **fields: Any) -> Task:
    return Task.model_validate({"id": "one", "prompt": "?", "check": check, **fields})


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"kind": "exact", "answers": ["Paris"]}, [" paris. ", "**Paris**"], ["In Paris", ""]),
        ({"kind": "contains", "any": ["red", "H2O"]}, ["It is Red.", "h2o!"], ["bored", "redder"]),
        (
            {"kind": "contains", "all": ["one", "two"], "none": ["three"]},
            ["two, one"],
            ["one", "one two three"],
        ),
        ({"kind": "contains", "all": ["(over)"]}, ["done (over)"], ["over"]),
        (
            {"kind": "numeric", "value": 1234},
            ["The answer is 1,234 or so, of 9", "1234", "3 and 1,234.0"],
            ["none", "1235", "", "the answer is unknown"],
        ),
        ({"kind": "numeric", "value": -2, "tolerance": 0.1}, ["−2.05"], ["2", "-2.2"]),
        ({"kind": "regex", "pattern": r"over and out\.$"}, ["Yes. Over and out."], ["Over and out. Bye."]),
    ],
)
def test_answers_are_checked(check: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert task(check).right(answer), answer
    for answer in wrong:
        assert not task(check).right(answer), answer


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", True),
        ("def add(a, b):\n    return b + a", True),
        ("```python\ndef add(a, b):\n    return a\n```", False),
        ("I would rather not.", False),
        ("```python\nimport os\nos._exit(0)\n```", False),
        ("```python\nraise SystemExit(0)\n```", False),
        ("```python\nimport os\nwhile True:\n    os.fork()\n```", False),
        ("```python\nopen('/etc/passwd').read()\ndef add(a, b): return a + b\n```", False),
    ],
)
def test_code_is_run(sandbox: None, answer: str, right: bool) -> None:
    check = {"kind": "code", "test": "assert add(2, 3) == 5 and add(0, 0) == 0"}
    assert task(check).right(answer) == right


def test_a_model_is_asked(tmp_path: Path) -> None:
    made = tiny.model()
    tiny.overfit(made, [tiny.row(tiny.talk("sky?", "blue")), tiny.row(tiny.talk("sum?", "7"))], 150)
    lines = [
        {"id": "a", "group": "facts", "prompt": "sky?", "check": {"kind": "exact", "answers": ["Blue"]}},
        {"id": "b", "group": "numbers", "prompt": "sum?", "check": {"kind": "numeric", "value": 8}},
        {
            "id": "c",
            "group": "facts",
            "messages": [{"role": "user", "content": "sky?"}],
            "check": {"kind": "choice", "options": ["red", "blue", "a green that is very long"], "answer": 1},
        },
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    results = ask(Subject(made, tiny.tokenizer(), adapted=False), read_tasks(path))
    assert [(one.task.id, one.answer, one.right) for one in results] == [
        ("a", "blue", True),
        ("b", "7", False),
        ("c", "blue", True),
    ]
    assert accuracy(results) == pytest.approx(2 / 3)
    assert by_group(results) == {"facts": 1.0, "numbers": 0.0}


def test_what_could_not_be_checked_does_not_count() -> None:
    one = task({"kind": "exact", "answers": ["x"]})
    assert accuracy([Result(one, "x", True), Result(one, "x", None)]) == 1.0
    assert accuracy([Result(one, "x", None)]) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "tasks.jsonl, line 2: the whole: Invalid JSON"),
        ('{"id": "b", "prompt": "?"}', "tasks.jsonl, line 2: check: Field required"),
        (
            '{"id": "b", "prompt": "?", "check": {"kind": "guess"}}',
            "tasks.jsonl, line 2: check: Input tag 'guess'",
        ),
        (
            '{"id": "b", "prompt": "?", "check": {"kind": "regex", "pattern": "("}}',
            "line 2: check.regex.pattern: Value error, no regular expression",
        ),
        ('{"id": "b", "prompt": "?", "check": {"kind": "contains"}}', "`any`, `all` or `none` is needed"),
        (
            '{"id": "b", "prompt": "?", "check": {"kind": "choice", "options": ["x", "y"], "answer": 2}}',
            "there are 2 options",
        ),
        ('{"id": "b", "prompt": 7, "check": {"kind": "numeric", "value": 1}}', "messages.0.content"),
        ('{"id": "a", "prompt": "?", "check": {"kind": "numeric", "value": 1}}', "two tasks are called 'a'"),
        (
            '{"id": "b", "prompt": "?", "messages": [], "check": {"kind": "numeric", "value": 1}}',
            "either `prompt` or `messages`",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "prompt": "?", "check": {"kind": "numeric", "value": 1}}\n' + line + "\n")
    with pytest.raises(DataError) as raised:
        read_tasks(path)
    assert told in str(raised.value)


def test_the_regression_suite_is_of_all_kinds() -> None:
    tasks = suite()
    assert 40 <= len(tasks) <= 60
    assert {one.check.kind for one in tasks} == {"choice", "contains", "numeric", "code"}
    assert len({one.question for one in tasks}) == len(tasks)
    chosen = [one.check.right_option for one in tasks if isinstance(one.check, Choice)]
    assert all(chosen.count(option) < len(chosen) for option in set(chosen)), "not always the same"
    assert len(texts()) >= 10


def test_a_pattern_that_takes_forever_is_not_found() -> None:
    assert not Matches(kind="regex", pattern=r"(a|aa|b?)+$").right("a" * 5000 + "!")
