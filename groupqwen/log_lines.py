"""A line of any log of the installation, read: Serve's JSON, and the text of Ray, Redis, PostgreSQL, supervisord.
Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_NAMES = {
    **{"DEBUG": 10, "TRAC": 10, "D": 10, ".": 10, "-": 10},
    **{"INFO": 20, "LOG": 20, "HINT": 20, "DETAIL": 20, "STATEMENT": 20, "SUCC": 20, "I": 20, "*": 20},
    **{"WARNING": 30, "WARN": 30, "W": 30, "#": 30},
    **{"ERROR": 40, "CRIT": 40, "CRITICAL": 40, "FATAL": 40, "PANIC": 40, "E": 40, "C": 40, "F": 40},
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATED = re.compile(
    r"(?P<open>\[?)(?P<day>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<part>\d{1,6}))?\d*"
    r"(?P<utc> UTC| GMT|Z)?[ \t]+(?:\[\d+\] +)?(?P<level>[A-Z]{1,8}\b:?)? *"
)
_REDIS = re.compile(
    r"\d+:[A-Z] (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) (?P<time>\d\d:\d\d:\d\d)\.(?P<part>\d+) "
    r"(?P<level>[.*#-]) "
)


@dataclass(frozen=True)
class Line:
    """`at`: Unix time. `part`: who says it: a deployment, or a file."""

    at: float
    level: int
    part: str
    text: str
    request: str | None = None
    more: tuple[str, ...] = ()
    """A traceback's lines."""

    def concerns(self, request: str) -> bool:
        """Whether it is about this request, or one that has come of it (`ID-shadow`, `ID-1`)."""
        own = self.request or ""
        return own == request or own.startswith(f"{request}-") or request in self.text


def read_lines(lines: Iterable[str], part: str) -> Iterator[Line]:
    """The lines of one file, in its order; what has no time of its own belongs to the line before."""
    last: Line | None = None
    for raw in lines:
        text = raw.rstrip("\r\n")
        found = _of_json(text, part) if text.startswith("{") else _of_text(text, part)
        if found is None and last is not None and text:
            last = replace(last, more=(*last.more, text))
        elif found is not None:
            if last is not None:
                yield last
            last = found
    if last is not None:
        yield last


def _of_json(text: str, part: str) -> Line | None:
    try:
        said: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level, message, at = (said.get(name) for name in ("levelname", "message", "timestamp_ns"))
    if not isinstance(message, str):
        return None
    seconds = at / 1e9 if isinstance(at, int) else _seconds(str(said.get("asctime", "")))
    # A replica's other half of the name is the id of the process: two of one deployment are told apart.
    who = said.get("deployment") or said.get("component_name") or part
    replica = str(said.get("replica") or "")[:4]
    request = said.get("request_id")
    return Line(
        seconds or 0.0,
        _NAMES.get(str(level), 20),
        f"{who}#{replica}" if replica else str(who),
        message,
        str(request) if request else None,
        tuple(str(said.get("exc_text") or "").splitlines()),
    )


def _of_text(text: str, part: str) -> Line | None:
    redis = _REDIS.match(text)
    if redis is not None:
        if redis["month"] not in _MONTHS:
            return None
        day = f"{redis['year']}-{_MONTHS.index(redis['month']) + 1:02}-{redis['day']}"
        at = _seconds(f"{day} {redis['time']}.{redis['part']}")
        return None if at is None else Line(at, _NAMES[redis["level"]], part, text[redis.end() :])
    dated = _DATED.match(text)
    if dated is None:
        return None
    at = _seconds(f"{dated['day']} {dated['time']}.{dated['part'] or 0}", utc=bool(dated["utc"]))
    level = (dated["level"] or "").rstrip(":")
    # What looks like a level and is none is the first word of what is said.
    begins = dated.end() if level in _NAMES else dated.start("level") if dated["level"] else dated.end()
    return None if at is None else Line(at, _NAMES.get(level, 20), part, text[begins:].strip())


def _seconds(text: str, *, utc: bool = False) -> float | None:
    try:
        parsed = datetime.fromisoformat(text.replace(",", "."))
    except ValueError:
        return None
    return (parsed.replace(tzinfo=UTC) if utc else parsed).timestamp()
