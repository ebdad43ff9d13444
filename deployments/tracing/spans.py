"""A span where a request is traced, and nothing where it is not.

Whether it is, is decided once, by the Gateway, and travels with the request (`RequestContext.trace`), as does
where spans go: no other part is told anything beforehand, on whatever machine it runs, and nobody is restarted.

Serve's own tracing (2.60) is not used. A client that says `sampled` has everything traced. With a share below 1
parts of traces are drawn instead of whole ones (of 40 requests at 0.2 it made 46 fragments). What is asked every
two seconds in the background would be traced as well. And its spans say nothing of models.
"""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from deployments.contract import RequestContext

T = TypeVar("T")
C = TypeVar("C", bound="RequestContext")
Kind = Literal["server", "client", "internal"]
Attributes = Mapping[str, str | int | float | bool | list[str] | None]

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?:-[^,]{0,99})?"
)


@dataclass(frozen=True)
class Traced:
    """Of a request whose spans are kept. `parent`: W3C's `traceparent` of the span above, or nothing. `to`: where
    spans go (`configs/tracing.py`). `words`: whether questions and answers may be in them."""

    parent: str
    to: str
    words: bool = False


def parent_of(header: str | None) -> str:
    """A client's `traceparent`, if it is one: whose child our first span is. What it says of sampling does not
    count."""
    found = _TRACEPARENT.fullmatch((header or "").strip())
    if found is None or not int(found["trace"], 16) or not int(found["span"], 16):
        return ""
    return f"00-{found['trace']}-{found['span']}-01"


class Step:
    """One span; `with` ends it. False, and does nothing, where the request is not traced."""

    def __init__(self, context: RequestContext, trace: Traced, name: str, kind: Kind, start: float | None) -> None:
        # Loaded by the first request that is traced, and by none else.
        from deployments.tracing.export import start_span

        self._trace, self._context = trace, context
        self._span: Span = start_span(trace, name, kind, _nanoseconds(start))
        self.set({"groupqwen.request_id": context.request_id})

    def __bool__(self) -> bool:
        return True

    def set(self, attributes: Attributes) -> None:
        """Attributes; None says nothing."""
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def event(self, name: str, attributes: Attributes) -> None:
        """Something that happened meanwhile."""
        self._span.add_event(name, {key: value for key, value in attributes.items() if value is not None})

    def within(self, context: C) -> C:
        """The context for what is done inside this step."""
        own = self._span.get_span_context()
        parent = f"00-{own.trace_id:032x}-{own.span_id:016x}-01"
        return replace(context, trace=replace(self._trace, parent=parent))

    def past(self, name: str, began: float, ended: float, attributes: Attributes = {}) -> None:  # noqa: B006
        """A part of it that is over; Unix times."""
        child = self.within(self._context)
        assert child.trace is not None
        part = Step(child, child.trace, name, "internal", began)
        part.set(attributes)
        part._span.end(_nanoseconds(max(began, ended)))

    def fail(self, kind: str, status: int | None = None) -> None:
        """It came to no good end; `kind` is a code or a class: never what an exception says, which may quote."""
        from opentelemetry.trace import Status, StatusCode

        self.set({"error.type": kind, "groupqwen.status": status})
        if status is None or status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(getattr(error, "code", None) or type(error).__name__, getattr(error, "status", None))
        self._span.end()


class Untraced(Step):
    """Where nobody wants to know. There is one of it."""

    def __init__(self) -> None:
        pass

    def __bool__(self) -> bool:
        return False

    def set(self, attributes: Attributes) -> None:
        pass

    def event(self, name: str, attributes: Attributes) -> None:
        pass

    def within(self, context: C) -> C:
        return context

    def past(self, name: str, began: float, ended: float, attributes: Attributes = {}) -> None:  # noqa: B006
        pass

    def fail(self, kind: str, status: int | None = None) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


UNTRACED = Untraced()


def step(context: RequestContext, name: str, kind: Kind = "internal", start: float | None = None) -> Step:
    """A span of this request, inside the one that its context tells of; `start`: Unix time, unset: now."""
    trace = context.trace
    return UNTRACED if trace is None else Step(context, trace, name, kind, start)


def measured(context: RequestContext, name: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """The same work, in a span of its own where the request is traced."""
    return work if context.trace is None else _measured(context, name, work)


async def _measured(context: RequestContext, name: str, work: Coroutine[Any, Any, T]) -> T:
    with step(context, name) as own:
        done = await work
        outcome = getattr(done, "outcome", None)
        own.set({"groupqwen.cache": outcome if isinstance(outcome, str) else None})
        return done


def _nanoseconds(at: float | None) -> int:
    return int((time.time() if at is None else at) * 1e9)
