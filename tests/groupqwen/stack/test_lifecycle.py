from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisGone

from groupqwen.stack import lifecycle
from groupqwen.stack.problem import StartProblem


class Log:
    def log_tail(self, _program: str, _lines: int) -> str:
        return "the last line"


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Redis that says these things in turn."""

    def prepared(*said: Exception | None) -> None:
        left: Iterator[Exception | None] = itertools.chain(said, itertools.repeat(said[-1]))

        class Server:
            @classmethod
            def from_url(cls, _url: str, **_options: Any) -> Server:
                return cls()

            def execute_command(self, _command: str) -> None:
                now = next(left)
                if now is not None:
                    raise now

        monkeypatch.setattr(lifecycle, "Redis", Server)

    monkeypatch.setattr(lifecycle, "REDIS_SECONDS", 0.25)
    monkeypatch.setattr(lifecycle, "LOADING_SECONDS", 5.0)
    return prepared


def wait(*, embedded: bool = True) -> None:
    lifecycle._wait_for_redis("redis://x", Log(), embedded=embedded)  # type: ignore[arg-type]


def test_one_that_reads_what_it_has_kept_is_waited_for(says: Any) -> None:
    says(RedisGone("no socket yet"), *[BusyLoadingError("loading")] * 8, None)
    wait()


@pytest.mark.parametrize(
    ("embedded", "told"), [(True, "the last line"), (False, "GROUPQWEN_REDIS_URL .* refused")]
)
def test_one_that_is_not_there_is_not(says: Any, embedded: bool, told: str) -> None:
    says(RedisGone("refused"))
    with pytest.raises(StartProblem, match=told):
        wait(embedded=embedded)


def test_one_that_dies_while_it_reads_is_not_waited_for_as_long(says: Any) -> None:
    says(BusyLoadingError("loading"), RedisGone("refused"))
    began = time.monotonic()
    with pytest.raises(StartProblem):
        wait()
    assert time.monotonic() - began < 2
