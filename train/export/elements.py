"""The elements of a JSON array one after the other, however long it is; and lines of JSON.

No more than one element is in memory. One that is broken costs only itself, where the next can be found. (`ijson`
was tried: a hundred thousand opening brackets take all memory of the machine, and a broken element all that come
after it.)
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from train.export.archive import Damaged

CHUNK = 1 << 18
MOST_CHARS = 32 << 20
"""Of one element; of a line: bytes."""
NEAR_END = 16
"""A number, a literal or an escape that the text's end cuts is no longer."""
MOST_TRIES = 10_000
"""Places at which the next element is looked for, after a broken one."""
BLANK = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder()


class Broken(Exception):
    """What is no JSON: what is wrong with it."""


class TooLong(Broken):
    """More than is read."""


@dataclass(frozen=True)
class Element:
    """`number` counts from 1. `problem`: why there is no value."""

    number: int
    value: Any = None
    problem: str | None = None


class Text:
    """A file's text, as far as it has been read and not been used."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # (Bytes that are no UTF-8 cost a letter, not a conversation.)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._buffer, self._at, self._ended = "", 0, False
        self._ahead: list[Any] = []

    def put_back(self, value: Any) -> None:
        """It comes once more."""
        self._ahead.append(value)

    def peek(self) -> str:
        """The next character that is no space; empty at the end. Raises `Damaged`."""
        if self._ahead:
            return "{"
        while True:
            found = BLANK.match(self._buffer, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more(CHUNK):
                return ""

    def take(self) -> None:
        """Go past the character that was seen."""
        self._at += 1

    def value(self, most: int = MOST_CHARS) -> Any:
        """The value that begins here. Raises `Broken`, and then stays; and `Damaged`."""
        if self._ahead:
            return self._ahead.pop()
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._may_be_cut(error):
                    raise Broken(_said(error)) from None
            except RecursionError:
                raise Broken("it is nested too deeply") from None
            except ValueError as error:
                raise Broken(str(error).split(";")[0]) from None
            else:
                # (A number may go on; what ends in a bracket or a quote does not.)
                if self._ended or self._buffer[end - 1] in '}]"' or end < len(self._buffer) - NEAR_END:
                    self._at = end
                    return value
            if len(self._buffer) - self._at > most:
                raise TooLong(f"it is longer than {most >> 20} MiB")
            # (Twice as much each time: what is long is not read again and again from its beginning.)
            self._more(max(CHUNK, len(self._buffer) - self._at))

    def find(self, pattern: re.Pattern[str]) -> bool:
        """Go to where the next match's group 1 begins, from here on. Raises `Damaged`."""
        while True:
            found = pattern.search(self._buffer, self._at)
            if found is not None:
                self._at = found.start(1)
                return True
            self._at = max(self._at, len(self._buffer) - 4096)
            if not self._more(CHUNK):
                return False

    def _more(self, count: int) -> bool:
        if self._ended:
            return False
        data = self._file.read(count)
        self._ended = not data
        self._buffer = self._buffer[self._at :] + self._decode(data, self._ended)
        self._at = 0
        return not self._ended

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        cut_string = error.msg.startswith("Unterminated string")
        return cut_string or error.pos >= len(self._buffer) - NEAR_END


def array(text: Text, accept: Callable[[Any], bool] | None = None, *, whole: bool = True) -> Iterator[Element]:
    """The elements of an array whose bracket was passed. `accept`: whether a value is an element, and not a part
    of one: then reading goes on behind a broken one. `whole`: nothing may follow the array."""
    number, begins = 0, None
    while True:
        number += 1
        try:
            if text.peek() == "]" and number == 1:
                return
            value = text.value()
            if begins is None and isinstance(value, dict) and value and (accept is None or accept(value)):
                first = re.escape(json.dumps(next(iter(value)), ensure_ascii=False))
                begins = re.compile(rf"[,\[}}]\s*(\{{\s*{first}\s*:)")
            yield Element(number, value)
            follows = text.peek()
            if follows == ",":
                text.take()
                continue
            text.take()
            if follows == "]" and (not whole or not text.peek()):
                return
            number += 1
            problem = {"": "the file ends here", "]": "something follows the end"}.get(
                follows, "there is no comma before it"
            )
        except Damaged as error:
            yield Element(number, problem=str(error))
            return
        except Broken as error:
            problem = str(error)
        try:
            found = _next(text, begins, accept)
        except Damaged as error:
            found, problem = False, f"{problem}; {error}"
        yield Element(number, problem=problem if found else f"{problem}; nothing after it was read")
        if not found:
            return


def _next(text: Text, begins: re.Pattern[str] | None, accept: Callable[[Any], bool] | None) -> bool:
    """Go to the next element, behind a broken one; whether there is one."""
    if begins is None or accept is None:
        return False
    for _ in range(MOST_TRIES):
        if not text.find(begins):
            return False
        try:
            value = text.value()
        except Broken:
            continue
        if accept(value):
            text.put_back(value)
            return True
    return False


def lines(file: BinaryIO) -> Iterator[Element]:
    """What stands on each line; blank ones count and are nothing."""
    number = 0
    try:
        while line := file.readline(MOST_CHARS + 1):
            number += 1
            if len(line) > MOST_CHARS:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MOST_CHARS)
                yield Element(number, problem=f"it is longer than {MOST_CHARS >> 20} MiB")
            elif line.strip():
                yield _line(number, line)
    except Damaged as error:
        yield Element(number + 1, problem=str(error))


def _line(number: int, line: bytes) -> Element:
    try:
        return Element(number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")))
    except json.JSONDecodeError as error:
        return Element(number, problem=_said(error))
    except RecursionError:
        return Element(number, problem="it is nested too deeply")
    except ValueError as error:
        return Element(number, problem=str(error).split(";")[0])


def _said(error: json.JSONDecodeError) -> str:
    return f"it is no JSON: {error.msg}"
