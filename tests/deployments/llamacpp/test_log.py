from __future__ import annotations

import os
import threading

import pytest

from deployments.llamacpp.log import unheard


def test_what_is_printed_past_the_log_is_not_heard_and_all_else_is(capfd: pytest.CaptureFixture[str]) -> None:
    """Also when several threads are at it: the engine makes some of llama.cpp's calls, a request others."""

    def call() -> None:
        for _ in range(200):
            with unheard():
                os.write(2, b"a client's words")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
