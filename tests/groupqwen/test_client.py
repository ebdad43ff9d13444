"""What the command says of a group that cannot be asked."""

from __future__ import annotations

import socket

import pytest

from groupqwen.client import ask
from groupqwen.stack.problem import StartProblem


def test_one_that_takes_too_long_is_not_one_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(StartProblem, match="did not answer in time"):
            ask(endpoint, "key", "/route", {}, seconds=0.2)
    with pytest.raises(StartProblem, match=r"does not answer: run `bash scripts/up.sh`"):
        ask(endpoint, "key", "/route", {}, seconds=0.2)
