"""A frame as a screen: fits into 80×24, says the same without colour, and leaves out columns before it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from groupqwen.top.frame import Frame, NodeLine, VariantLine
from groupqwen.top.words import (
    NOTHING,
    bar,
    dollars,
    duration,
    gib,
    number,
    pair,
    share,
    size,
    sparkline,
    whole,
)

Key = Callable[[VariantLine], float]


def _most(value: float | None) -> float:
    return float("inf") if value is None else -value


ORDERS: dict[str, Key] = {
    "profile": lambda line: 0.0,
    "requests": lambda line: _most(line.requests_per_minute),
    "busy": lambda line: _most(None if line.active is None else line.active + (line.waiting or 0)),
    "memory": lambda line: _most(line.memory_mb),
    "latency": lambda line: _most(line.answer_p95),
}
"""By what the variants stand in order; those that say nothing of it come last."""

STATES = {
    "awake": "green",
    "loading": "yellow",
    "draining": "yellow",
    "asleep": "dim",
    "absent": "dim",
    "away": "dim",
}
OUTCOMES = ("exact", "semantic", "miss", "coalesced", "bypass")
ALWAYS_SHOWN = OUTCOMES[:3]
STATUS = {"ok": "bold green", "degraded": "bold yellow", "down": "bold red"}


CELLS = 16
"""Of a sparkline, at most; half of them where there is less room."""

ROOMY = 110
"""From this width on, there is room for what is nice to know."""
SHORTEST_NAME = 8
NEARLY_FULL = 0.8


@dataclass(frozen=True)
class Field:
    """A column of the variants, shown where the screen is at least so wide."""

    title: str
    at_least: int
    shown: Callable[[VariantLine], str]
    words: bool = False


FIELDS = (
    Field("variant", 0, lambda line: line.name, words=True),
    Field("state", 0, lambda line: line.state, words=True),
    Field("node", 100, lambda line: line.node, words=True),
    Field("GiB", 40, lambda line: gib(line.memory_mb)),
    Field("busy", 40, lambda line: _busy(line)),
    Field("req/\nmin", 50, lambda line: number(line.requests_per_minute)),
    Field("first token\np50/p95, s", 64, lambda line: pair(line.first_token_p50, line.first_token_p95)),
    Field("answer\np50/p95, s", 76, lambda line: pair(line.answer_p50, line.answer_p95)),
    Field("tok/s", 76, lambda line: number(line.tokens_per_second)),
    Field("taken over", ROOMY, lambda line: _moved(line), words=True),
)


@dataclass(frozen=True)
class Screen:
    """What `rich` draws. `keys`: whether anyone can press some. `problem`: why what is shown is old."""

    frame: Frame
    order: str = "profile"
    paused: bool = False
    keys: bool = False
    problem: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, most_rows = options.max_width, None
        above = [self._title(width), self._rates(width)]
        if self.problem:
            above.append(Text(f" {self.problem} ", style="bold reverse red", overflow="ellipsis", no_wrap=True))
        if self.frame.canary:
            above.append(Text(f"canary {self.frame.canary}", style="yellow", overflow="ellipsis", no_wrap=True))
        below: list[RenderableType] = [*(_node(node, width) for node in self.frame.nodes), self._cache()]
        below += [self._ledger(), *self._limits(), *self._taken_over(width)]
        below += [self._keys()] if self.keys else []
        if self.keys:
            # One line more for the blank ones, and two for the titles.
            most_rows = max(1, options.size.height - len(above) - len(below) - 4)
        yield Group(*above, Text(), self._variants(width, most_rows), Text(), *below)

    def _limits(self) -> list[RenderableType]:
        """Where any has been met, or budgets are used."""
        told = [f"{one.key} has used {share(one.used)} of its {one.period}" for one in self.frame.budgets[:2]]
        told += [f"refused {whole(count)} {cause}" for cause, count in sorted(self.frame.refused.items())]
        full = any(one.used >= NEARLY_FULL for one in self.frame.budgets)
        line = Text(", ".join(told), style="yellow" if full or self.frame.refused else "default")
        return [_line("limits", line)] if told else []

    def _taken_over(self, width: int) -> list[RenderableType]:
        """A line of its own, where the column has no room."""
        told = "; ".join(f"{line.name} {_moved(line)}" for line in self.frame.variants if line.moved)
        return [_line("moved", Text(told))] if told and width < ROOMY else []

    def _title(self, width: int) -> Text:
        frame = self.frame
        line = Text.assemble(
            ("GroupQwen", "bold"),
            f"  {frame.endpoint}  ",
            (frame.status, STATUS.get(frame.status, "bold")),
            f"  up {duration(frame.up_seconds)}",
        )
        told = "means since the start"
        if frame.window_seconds is not None:
            told = f"of the last {duration(frame.window_seconds)}"
        return _spread(line, Text(told, style="dim"), width)

    def _rates(self, width: int) -> Text:
        frame = self.frame
        cells = CELLS if width >= ROOMY else CELLS // 2
        line = Text.assemble(
            (number(frame.requests_per_second), "bold"),
            " requests/s ",
            (sparkline(frame.requests[-cells:]).lstrip(), "cyan"),
            "  ",
            (number(frame.tokens_per_second), "bold"),
            " tokens/s  ",
            (share(frame.hit_rate), "bold"),
            " hits ",
            (sparkline(frame.hits[-cells:], most=1.0).lstrip(), "cyan"),
        )
        whose = "" if frame.cost_of_all_keys else ", yours"
        saved = f" (saved {dollars(frame.saved_today_usd)})" if width >= ROOMY else ""
        return _spread(line, Text(f"{dollars(frame.cost_today_usd)} today{saved}{whose}"), width)

    def _variants(self, width: int, most: int | None) -> Table:
        lines = sorted(self.frame.variants, key=ORDERS[self.order])
        kept = lines if most is None or len(lines) <= most else lines[: max(1, most - 1)]
        shown = [field for field in FIELDS if width >= field.at_least]
        gap = 2 if width >= ROOMY else 1
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
        for field, wide in zip(shown, _widths(shown, kept, width, gap), strict=True):
            justify: Literal["left", "right"] = "left" if field.words else "right"
            table.add_column(field.title, justify=justify, no_wrap=True, overflow="ellipsis", width=wide)
        for line in kept:
            table.add_row(*(Text(field.shown(line), style=_style(field, line)) for field in shown))
        if len(kept) < len(lines):
            table.add_row(Text(f"and {len(lines) - len(kept)} more", style="dim"))
        return table

    def _cache(self) -> Text:
        cache = self.frame.cache
        held = NOTHING if cache.entries is None else f"{cache.entries:,} entries"
        if cache.size_mb is not None and cache.most_mb is not None:
            held += f", {cache.size_mb:.1f} of {cache.most_mb:.0f} MiB"
        counts = ", ".join(
            f"{name} {whole(cache.lookups.get(name, 0.0))}"
            for name in OUTCOMES
            if name in ALWAYS_SHOWN or cache.lookups.get(name)
        )
        away = Text(f"away: {cache.error}  ", style="bold red") if cache.ok is False else Text()
        return _line("cache", Text.assemble(away, f"{held}: ", (counts if cache.lookups else NOTHING, "cyan")))

    def _ledger(self) -> Text:
        ledger = self.frame.ledger
        if ledger.ok is None:
            return _line("ledger", Text(NOTHING))
        said = Text("ok", style="green") if ledger.ok else Text(f"away: {ledger.error}", style="bold red")
        pending = ledger.pending_bytes or 0
        said.append(f", {size(pending)} wait" if pending else ", nothing waits", style="default")
        if ledger.refused_rows:
            said.append(f", {ledger.refused_rows} rows refused", style="bold yellow")
        return _line("ledger", said)

    def _keys(self) -> Text:
        paused = ("p goes on (paused)", "bold reverse") if self.paused else ("p pauses", "")
        return Text.assemble("q quits   s sorts: by ", (self.order, "bold"), "   ", paused, no_wrap=True)


def _widths(fields: list[Field], lines: list[VariantLine], width: int, gap: int) -> list[int]:
    """Each as wide as what is in it; the variants' names, which come first, what is left at most."""
    texts = [[*field.title.split("\n"), *(field.shown(line) for line in lines)] for field in fields]
    name, *others = (max(map(cell_len, column)) for column in texts)
    left = width - sum(others) - gap * len(fields)
    return [min(name, max(SHORTEST_NAME, left)), *others]


def _node(node: NodeLine, width: int) -> Text:
    long = max(8, min(32, width - 60))
    told = Text.assemble(
        (bar(node.used_mb - node.loading_mb, node.loading_mb, node.budget_mb, long), "cyan"),
        f"  {gib(node.used_mb)} of {gib(node.budget_mb)} GiB",
    )
    if node.measured_mb is not None:
        told.append(f", measured {gib(node.measured_mb)}")
    if node.away:
        told.append("  away", style="dim")
    if node.loading:
        told.append(f"  loading {', '.join(node.loading)}", style="yellow")
    return _line(node.name, told)


def _line(name: str, told: Text) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(f"{name:<8.8} ", style="bold").append_text(told)


def _spread(left: Text, right: Text, width: int) -> Text:
    """One at each end of the line, the right one only where there is room."""
    room = width - left.cell_len - right.cell_len
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append_text(left)
    return line if room < 2 else line.append(" " * room).append_text(right)


def _busy(line: VariantLine) -> str:
    if line.active is None:
        return NOTHING
    of = "" if line.slots is None else f"/{line.slots}"
    return f"{line.active}{of}" + (f"+{line.waiting}" if line.waiting else "")


def _moved(line: VariantLine) -> str:
    return ", ".join(f"{whole(count)} {cause}" for cause, count in sorted(line.moved.items()))


def _style(field: Field, line: VariantLine) -> str:
    if field.title == "state":
        return STATES.get(line.state, "bold red")
    if field.title == "busy" and line.waiting:
        return "yellow"
    return "dim" if line.state not in ("awake", "loading", "draining") else ""
