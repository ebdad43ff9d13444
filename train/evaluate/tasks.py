"""Task files: questions whose answers a program can check. One JSON object a line:

    {"id": "sky", "group": "facts", "prompt": "What colour is the sky?",
     "check": {"kind": "contains", "any": ["blue"]}}

In the place of `prompt`, `messages` may give a whole conversation. What a check is, each class below says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import regex  # type: ignore[import-untyped]  # (transformers needs it, too)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from train.conversation import DataError, Message
from train.evaluate.sandbox import passes

SECONDS = 1.0
"""For a pattern: some take forever, with some texts."""
READ_CHARACTERS = 8000
"""Of an answer; what is beyond is not looked at."""
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exact(_Check):
    """The whole answer is one of these; case, blanks and punctuation at its ends do not count."""

    kind: Literal["exact"]
    answers: tuple[str, ...] = Field(min_length=1)

    def right(self, answer: str) -> bool:
        return _plain(answer) in {_plain(wanted) for wanted in self.answers}


class Contains(_Check):
    """The answer says one of `any`, all of `all` and none of `none`, each as whole words, in any case."""

    kind: Literal["contains"]
    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _asks_for_something(self) -> Contains:
        if not (self.any or self.all or self.none):
            raise ValueError("`any`, `all` or `none` is needed")
        return self

    def right(self, answer: str) -> bool:
        def said(words: str) -> bool:
            return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", answer, re.IGNORECASE) is not None

        return (
            (not self.any or any(map(said, self.any)))
            and all(map(said, self.all))
            and not any(map(said, self.none))
        )


class Numeric(_Check):
    """The answer's number: the one after "answer is", else the last of all."""

    kind: Literal["numeric"]
    value: float
    tolerance: float = Field(1e-6, ge=0, description="How far from it may be right.")

    def right(self, answer: str) -> bool:
        said = last_number(answer)
        return said is not None and abs(said - self.value) <= self.tolerance


class Matches(_Check):
    """A regular expression is found in the answer (in any case; `.` is not the end of a line), in a second."""

    kind: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            regex.compile(value)
        except regex.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value

    def right(self, answer: str) -> bool:
        try:
            return regex.search(self.pattern, answer, regex.IGNORECASE, timeout=SECONDS) is not None
        except TimeoutError:
            return False


class Code(_Check):
    """The answer is Python (its fenced blocks, else all of it) with which `test` runs without an exception, in the
    sandbox. Raises `SandboxMissing`."""

    kind: Literal["code"]
    before: str = Field("", description="Comes before it: imports, the begin of a function.")
    test: str = Field(min_length=1, description="Comes after it: assertions.")

    def right(self, answer: str) -> bool:
        blocks = _FENCE.findall(answer)
        written = "\n\n".join(blocks) if blocks else answer
        return passes(f"{self.before}\n\n{written}\n", self.test)


class Choice(_Check):
    """Which of `options` the model finds the likeliest answer, for each of its letters. Nothing is generated."""

    kind: Literal["choice"]
    options: tuple[str, ...] = Field(min_length=2)
    right_option: int = Field(alias="answer", ge=0, description="Which option is right, counted from 0.")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Choice:
        if self.right_option >= len(self.options):
            raise ValueError(f"`answer` {self.right_option}: there are {len(self.options)} options, from 0")
        return self


Check = Annotated[Exact | Contains | Numeric | Matches | Code | Choice, Field(discriminator="kind")]


class Task(BaseModel):
    """One question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    group: str = Field("", pattern=r"^[a-z0-9_-]*$", description="What it is about; a metric of its own for each.")
    messages: tuple[Message, ...] = Field(min_length=1)
    most_tokens: int = Field(64, ge=1, le=1024, description="Of the answer.")
    check: Check

    @model_validator(mode="before")
    @classmethod
    def _from_prompt(cls, given: Any) -> Any:
        if isinstance(given, dict) and "prompt" in given:
            if "messages" in given:
                raise ValueError("either `prompt` or `messages`")
            given = {key: value for key, value in given.items() if key != "prompt"} | {
                "messages": [{"role": "user", "content": given["prompt"]}]
            }
        return given

    @property
    def question(self) -> str:
        """The last turn."""
        return self.messages[-1].content

    def right(self, answer: str) -> bool:
        """Whether a text answers it. Raises `SandboxMissing`."""
        assert not isinstance(self.check, Choice), "no text answers it"
        return self.check.right(answer[:READ_CHARACTERS])


def read_tasks(path: Path) -> list[Task]:
    """Raises `DataError` naming file, line and field, and `OSError`."""
    tasks = list(_read(path))
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise DataError(f"{path.name}: two tasks are called {task.id!r}")
        seen.add(task.id)
    return tasks


def _read(path: Path) -> Iterator[Task]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield Task.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise DataError(f"{path.name}, line {number}: {field}: {first['msg']}") from None


def last_number(text: str) -> float | None:
    """The number after the last "answer is", else the last of all."""
    _, told, after = text.lower().rpartition("answer is")
    found = _NUMBER.findall(after)
    if told and found:
        return _number(found[0])
    found = _NUMBER.findall(text)
    return _number(found[-1]) if found else None


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:!?\"'`*").casefold()
