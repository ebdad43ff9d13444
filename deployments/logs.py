"""What may stand in a line of the log: no question, no answer, no key. `serving.py` puts it in force in replicas.

A failure that a request has led to may quote the request: a wrong field with its value, a word that cannot be
encoded. So within a request only such exceptions say their words of which it is known that they speak of machines;
of all others the class is logged, and where in the code they were raised.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from copy import copy

from deployments.contract import ChatError

SERVE = logging.getLogger("ray.serve")

PLAIN = (
    OSError,
    MemoryError,
    ImportError,
    AttributeError,
    NameError,
    IndexError,
    ArithmeticError,
    asyncio.CancelledError,
    asyncio.InvalidStateError,
)
"""Exceptions that speak of machines and code, never of what was asked."""


def said_of(error: BaseException) -> str:
    """An exception's class, with its words where they quote nobody."""
    name = type(error).__name__
    if isinstance(error, ChatError):
        return f"{name}: {error.status} {error.code or error.kind}"
    if isinstance(cause := getattr(error, "cause", None), BaseException):
        # Of Ray's: its words are those of the other side, which has its own line under the same request id.
        return f"{name.partition('(')[0]}({said_of(cause)})"
    plain = isinstance(error, PLAIN) or type(error).__module__.startswith("ray.")
    return f"{name}: {error}" if plain and not name.startswith("RayTaskError") else name


def trace_of(error: BaseException) -> str:
    """Where it was raised, and what led to it, the first one first."""
    told: list[str] = []
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        where = "".join(traceback.format_tb(each.__traceback__))
        told.append(f"{where}{said_of(each)}")
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(told))


class Discreet(logging.Filter):
    """Of every record that Serve's logger takes."""

    def __init__(self, in_request: Callable[[], bool]) -> None:
        super().__init__()
        self._in_request = in_request

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ChatError) and error.status < 500:
            # Serve logs whatever ends a call; that somebody was refused is no failure.
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "refused: %s", (said_of(error),)
            record.exc_info = record.exc_text = None
            return SERVE.isEnabledFor(logging.INFO)
        foreign = not _is_ours(record)
        private = foreign or self._in_request()
        if foreign:
            # asyncio's first line says what happened; in brackets and below come arguments and results.
            record.msg = record.getMessage().partition("\n")[0].partition("(")[0].rstrip()
            record.args = None
        if error is not None:
            # (In a replica `print` is Serve's, which spoils a traceback that the formatter would make itself.)
            record.exc_text = trace_of(error) if private else "".join(traceback.format_exception(error))
        if private and isinstance(record.args, tuple):
            record.args = tuple(said_of(one) if isinstance(one, BaseException) else one for one in record.args)
        return True


class ToServe(logging.Handler):
    """What other libraries warn of (asyncio, OpenTelemetry …) goes into the same file, as far as it quotes nobody.
    Serve has only its own logger write there, and prints all else at a level that is dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        if SERVE.isEnabledFor(record.levelno) and not _is_ours(record):
            SERVE.handle(copy(record))


def _is_ours(record: logging.LogRecord) -> bool:
    return f"{record.name}.".startswith(f"{SERVE.name}.")


def install(in_request: Callable[[], bool]) -> None:
    """Once for each process. `in_request`: whether what runs now was led to by a request."""
    if not any(isinstance(one, Discreet) for one in SERVE.filters):
        SERVE.addFilter(Discreet(in_request))
        logging.getLogger().addHandler(ToServe(logging.WARNING))
