"""A fixed, seeded sample of questions with an answer that a program can check: arithmetic in words (GSM8K),
multiple choice (MMLU-Pro, four of its options), short facts, and functions to write (HumanEval, run in the
sandbox)."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from train.evaluate.sandbox import passes

HERE = Path(__file__).parent
SEED = 4
LETTERS = "ABCD"

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\b([ABCD])\b")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """`tokens`: the most that an answer may take. `right` judges an answer's text."""

    group: str
    text: str
    tokens: int
    right: Callable[[str], bool]


def sample(data: Path) -> list[Question]:
    """All kinds, mixed. Raises `FileNotFoundError` where the data is not there."""
    draw = random.Random(SEED)
    questions = [
        *_arithmetic(data / "tasks" / "gsm8k_test.jsonl", draw, 60),
        *_choices(data / "routing" / "mmlu_pro_questions.jsonl.gz", draw, 110),
        *_facts(HERE / "data" / "facts.yaml"),
        *_functions(data / "tasks" / "HumanEval.jsonl.gz", draw, 50),
    ]
    draw.shuffle(questions)
    return questions


def _arithmetic(path: Path, draw: random.Random, count: int) -> list[Question]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Question(
            "arithmetic",
            f"{row['question']}\nWork it out step by step, briefly, and end with: The answer is NUMBER.",
            220,
            partial(_says_number, _last_number(row["answer"])),
        )
        for row in draw.sample(rows, count)
    ]


def _says_number(gold: float | None, answer: str) -> bool:
    return _last_number(answer) == gold


def _last_number(text: str) -> float | None:
    """The number after the last "answer is", else the last of all."""
    found = _NUMBER.findall(text.lower().rsplit("answer is", 1)[-1]) or _NUMBER.findall(text)
    return float(found[0 if "answer is" in text.lower() else -1].replace(",", "")) if found else None


def _choices(path: Path, draw: random.Random, count: int) -> list[Question]:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    questions = []
    for row in draw.sample([row for row in rows if len(row["options"]) >= 4], count):
        gold = row["options"]["ABCDEFGHIJ".index(row["answer"])]
        options = [gold, *draw.sample([option for option in row["options"] if option != gold], 3)]
        draw.shuffle(options)
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
        letter = LETTERS[options.index(gold)]
        text = f"{row['question']}\n{listed}\nReply with only the letter of the right option: A, B, C or D."
        questions.append(Question("choice", text, 12, partial(_chooses, letter)))
    return questions


def _chooses(gold: str, answer: str) -> bool:
    found = _LETTER.search(answer)
    return found is not None and found[1] == gold


def _facts(path: Path) -> list[Question]:
    return [
        Question(
            "fact",
            f"{row['q']} Answer in one short sentence.",
            40,
            partial(_says, row["a"]),
        )
        for row in yaml.safe_load(path.read_text())
    ]


def _says(accepted: list[str], answer: str) -> bool:
    # A symbol is right as it is written; a word in any case.
    return any(
        re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", answer, re.NOFLAG if len(fact) <= 2 else re.IGNORECASE)
        for fact in accepted
    )


def _functions(path: Path, draw: random.Random, count: int) -> list[Question]:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [
        Question(
            "code",
            "Complete this Python function. Answer with the code in one block and nothing else; leave out the "
            f"docstring.\n\n```python\n{row['prompt']}```",
            256,
            partial(_works, row),
        )
        for row in draw.sample(rows, count)
    ]


def _works(row: dict[str, str], answer: str) -> bool:
    blocks = _FENCE.findall(answer)
    code = "\n\n".join(blocks) if blocks else answer
    # The imports and helpers of the prompt are there for who writes only the function.
    return passes(f"{row['prompt']}    pass\n\n{code}\n\n{row['test']}\n\ncheck({row['entry_point']})\n")
