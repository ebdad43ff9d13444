"""The command: one frame, or a screen that follows the group until someone quits."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from groupqwen.client import endpoint_and_key
from groupqwen.stack.problem import StartProblem
from groupqwen.top.frame import Frame
from groupqwen.top.history import History
from groupqwen.top.keyboard import pressed
from groupqwen.top.sources import Lost, Reading, Refused, Sources
from groupqwen.top.view import ORDERS, Screen

KEY_VARIABLE = "GROUPQWEN_CLIENT_KEY"
"""(GROUPQWEN_API_KEY, where it is set, becomes the key of the owner of this machine's own group.)"""

KEY_SECONDS = 0.2
LIVE_WINDOW_SECONDS = 60.0

console = Console()


def top(
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    window: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Rates and latencies are of so many seconds (live: 60). --once and --json wait for so long; "
            "unset, they show the means since the start, at once.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One frame as JSON, for scripts.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help=f"Look at a group elsewhere, say http://100.64.0.7:8000/v1, with the key in {KEY_VARIABLE}."
        ),
    ] = None,
) -> None:
    """The running group, live: rates, cache hits, latency by variant, memory by machine, what is loading.

    q quits, s changes the order of the variants, p pauses. Into a pipe or a file one frame is printed. A key with
    the scope chat is enough; the cost is then that key's own.

    Latencies are of answers that the cache has not given. Busy: requests that are being answered / slots + waiting
    ones. The bar: what the plan holds for models that are in memory (█) and that are loading (▒), of the budget.
    """
    where, key = endpoint_and_key() if endpoint is None else (endpoint, _key_for(endpoint))
    sources = Sources(where, key)
    try:
        if once or as_json or not console.is_interactive:
            frame = observed(sources, interval, window)
            if as_json:
                typer.echo(json.dumps(asdict(frame), ensure_ascii=False, indent=1))
            else:
                console.print(Screen(frame))
        else:
            follow(sources, interval, window or LIVE_WINDOW_SECONDS)
    except Lost as lost:
        raise StartProblem(f"{lost}: run `bash scripts/up.sh`") from lost
    except Refused as refused:
        raise StartProblem(f"{where} refuses the key: {refused}") from refused


def _key_for(endpoint: str) -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise StartProblem(f"which key for {endpoint}? Set {KEY_VARIABLE}")
    return key


def observed(sources: Sources, interval: float, window: float | None) -> Frame:
    """One frame, after `window` seconds where one is given. Raises `Lost` and `Refused`."""
    history = History(sources.endpoint, window or LIVE_WINDOW_SECONDS)
    history.add(sources.read())
    until = time.monotonic() + (window or 0.0)
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(interval, left))
        history.add(sources.read())
    return history.frame()


def follow(sources: Sources, interval: float, window: float) -> None:
    """The live screen. Raises `Lost` and `Refused` for the first look only; later it says so and tries again."""
    history = History(sources.endpoint, window)
    history.add(sources.read())
    looker = Looker(sources.read, interval)
    shown = Screen(history.frame(), keys=True)
    try:
        with Live(shown, console=console, screen=True, auto_refresh=False) as live, pressed() as key:
            looker.start()
            size = console.size
            while (typed := key(KEY_SECONDS)) != "q":
                news = looker.news(history)
                if not (news or typed or console.size != size):
                    continue
                size = console.size
                shown = after_key(shown, typed)
                if not shown.paused:
                    shown = Screen(history.frame(), shown.order, keys=True, problem=looker.problem)
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        looker.stop()


def after_key(shown: Screen, typed: str) -> Screen:
    """The screen after a key."""
    orders = list(ORDERS)
    following = orders[(orders.index(shown.order) + 1) % len(orders)]
    order = following if typed == "s" else shown.order
    paused = not shown.paused if typed == "p" else shown.paused
    return Screen(shown.frame, order, paused, shown.keys, shown.problem)


class Looker:
    """Looks again and again, in a thread of its own: a key is heard at once, however long an answer takes."""

    def __init__(self, read: Callable[[], Reading], interval: float) -> None:
        self._read, self._interval = read, interval
        self._news: SimpleQueue[Reading | Lost | Refused] = SimpleQueue()
        self._stopped = threading.Event()
        self._lost_at: float | None = None
        self._why = ""

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def news(self, history: History) -> bool:
        """Hand on what was seen since; whether there was anything."""
        found = False
        while True:
            try:
                news = self._news.get_nowait()
            except Empty:
                return found
            found = True
            if isinstance(news, Reading):
                history.add(news)
                self._lost_at = None
                continue
            self._lost_at = self._lost_at or time.monotonic()
            self._why = "lost the endpoint" if isinstance(news, Lost) else f"the key is refused: {news}"

    @property
    def problem(self) -> str | None:
        """What keeps it from looking now."""
        if self._lost_at is None:
            return None
        return f"{self._why}, trying again (for {time.monotonic() - self._lost_at:.0f} s)"

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._news.put(self._read())
            except (Lost, Refused) as problem:
                self._news.put(problem)
            except Exception as error:  # Whatever it is, a screen that stands still would say that all is well.
                self._news.put(Lost(f"a look failed: {error!r}"))
