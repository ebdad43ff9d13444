"""llama.cpp's own log, quietened: warnings and errors go to Python's `logging`, the rest nowhere."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp

logger = logging.getLogger("ray.serve.llamacpp")

_ONE_AT_A_TIME = threading.Lock()
_listening = threading.local()
_LEVELS = {3: logging.WARNING, 4: logging.ERROR}  # ggml_log_level; 5 continues the line before


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _forward(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level in _LEVELS:
        said = text.decode("utf-8", "replace").rstrip()
        getattr(_listening, "said", []).append(said)
        # Of a grammar that it cannot read it quotes the text, which is a client's.
        logger.log(_LEVELS[level], "%s", "a grammar cannot be read" if "grammar" in said else said)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What llama.cpp complains of meanwhile, in this thread: it says why a call failed nowhere else."""
    _listening.said = []
    try:
        yield _listening.said
    finally:
        del _listening.said


@contextmanager
def unheard() -> Iterator[None]:
    """Nothing written to the process's standard error gets out: for calls into llama.cpp that print what they were
    given, past its log. (What another thread says in these microseconds is lost too.)"""
    # Of two at once the second would keep what the first has put there, and nothing would be heard again.
    with _ONE_AT_A_TIME:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def quieten() -> None:
    """Install the callback; harmless when called again."""
    llama_cpp.llama_log_set(_forward, ctypes.c_void_p(0))
