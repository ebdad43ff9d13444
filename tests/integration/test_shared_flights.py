"""The same request asked of several Routers, which are processes of their own over the group's Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.integration.conftest import ROOT, Stack

WORDS = 12
WHOLE = ["routed", *(f"{word} " for word in range(WORDS))]


class Routers:
    """Several, each with an answer of so many words."""

    def __init__(self, url: str) -> None:
        self._command = [sys.executable, "-m", "tests.integration.speaking_router", url, uuid.uuid4().hex]
        self.there: list[subprocess.Popen[str]] = []

    def start(self, count: int, words: int = WORDS, pause: float = 0.3) -> list[subprocess.Popen[str]]:
        """They are ready to be asked."""
        ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        pipes: dict[str, Any] = {**ends, "text": True, "bufsize": 1}
        command = [*self._command, str(words), str(pause)]
        started = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(count)]
        self.there += started
        for process in started:
            assert next_of(process) == {"ready": True}
        return started


def ask(*asked: subprocess.Popen[str]) -> None:
    for process in asked:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def next_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def until(process: subprocess.Popen[str], word: str) -> list[dict[str, Any]]:
    found = [next_of(process)]
    while found[-1].get("word") != word:
        found.append(next_of(process))
    return found


def rest_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=40)
    return [json.loads(line) for line in out.splitlines()]


def words_in(said: list[dict[str, Any]]) -> list[str]:
    return [one["word"] for one in said if "word" in one]


def made_by(said: list[dict[str, Any]]) -> list[int]:
    return [one["answers_from"] for one in said if "answers_from" in one]


@pytest.fixture
def routers(stack: Stack) -> Iterator[Routers]:
    found = Routers(stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"])
    yield found
    for process in found.there:
        process.kill()
        process.wait()


def test_one_answers_and_all_hear_all_of_it(routers: Routers) -> None:
    first, late, *others = routers.start(5)
    ask(first)
    began = until(first, "0 ")
    ask(*others)
    assert made_by(began) == [0]
    for process in others:
        said = rest_of(process)
        assert words_in(said) == WHOLE and said[-1] == {"over": True}
        assert made_by(said) == []
    assert words_in(began + rest_of(first)) == WHOLE
    ask(late)
    assert made_by(rest_of(late)) == [0], "what is over is not joined"


def test_where_it_is_killed_one_of_the_others_goes_on_and_nobody_hangs(routers: Routers) -> None:
    first, *others = routers.start(4)
    ask(first)
    until(first, "0 ")
    ask(*others)
    begun = [until(process, "2 ") for process in others]
    first.kill()
    killed = time.monotonic()
    said = [before + rest_of(process) for before, process in zip(begun, others, strict=True)]
    heirs = [one for one in said if made_by(one)]
    assert len(heirs) == 1, "one takeover"
    assert made_by(heirs[0])[0] >= 3, "from where it was, not from the beginning"
    for one in said:
        assert words_in(one) == WHOLE, "no word is missing, none comes twice"
        assert one[-1] == {"over": True}
    assert time.monotonic() - killed < 20


def test_where_its_client_leaves_one_of_the_others_goes_on_at_once(routers: Routers) -> None:
    first, *others = routers.start(3)
    ask(first)
    until(first, "0 ")
    ask(*others)
    begun = [until(process, "2 ") for process in others]
    first.send_signal(signal.SIGINT)
    said = [before + rest_of(process) for before, process in zip(begun, others, strict=True)]
    assert len([one for one in said if made_by(one)]) == 1
    for one in said:
        assert words_in(one) == WHOLE and one[-1] == {"over": True}


def test_without_redis_each_has_its_own_answered_and_misses_no_word(routers: Routers, stack: Stack) -> None:
    first, other = routers.start(2)
    ask(first)
    began = until(first, "0 ")
    ask(other)
    begun = until(other, "2 ")
    with redis.Redis.from_url(stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"]) as client:
        client.client_pause(timeout=4000, all=True)
        for said in (began + rest_of(first), begun + rest_of(other)):
            assert words_in(said) == WHOLE and said[-1] == {"over": True}
        client.client_unpause()
    held = b"".join(client.dump(name) or b"" for name in client.scan_iter("gq:flight:*"))
    assert b"content" not in held, "what they tell each other is sealed"


def test_what_has_cost_two_their_lives_is_not_given_to_a_third(routers: Routers) -> None:
    first, *others = routers.start(3, pause=1.0)
    ask(first)
    until(first, "0 ")
    ask(*others)
    begun = [until(process, "0 ") for process in others]
    first.kill()
    heir = None
    deadline = time.monotonic() + 20
    while heir is None and time.monotonic() < deadline:
        for process, before in zip(others, begun, strict=True):
            before.append(next_of(process))
            heir = process if made_by(before) else heir
    assert heir is not None
    heir.kill()
    [left] = [process for process in others if process is not heir]
    assert rest_of(left)[-1] == {"failed": 503}


def test_a_failure_is_everyones_at_once(routers: Routers) -> None:
    first, other = routers.start(2, words=13)
    ask(first)
    until(first, "0 ")
    ask(other)
    assert made_by(heard := rest_of(other)) == []
    assert heard[-1] == {"failed": 503} == rest_of(first)[-1]
