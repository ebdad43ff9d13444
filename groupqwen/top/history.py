"""From readings to a screen: rates and quantiles of the last seconds, and how all else is now. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from groupqwen.top.counters import Counters, Point, Series, Window
from groupqwen.top.frame import Budget, CacheLine, Frame, LedgerLine, NodeLine, VariantLine
from groupqwen.top.sources import Reading

LOOKUPS = "groupqwen_cache_lookups_total"
DECISIONS = "groupqwen_route_decisions_total"
MOVES = "groupqwen_route_moves_total"
TOKENS = "groupqwen_engine_tokens_total"
REFUSED = "groupqwen_refused_total"
BUDGET = "groupqwen_budget_used_ratio"
TTFT = "groupqwen_ttft_seconds"
LATENCY = "groupqwen_latency_seconds"
STATUS_TOKENS = "status_completion_tokens"
"""What a variant says of itself, under a name that no metric has: machines that have joined export their own."""

HITS = frozenset({"exact", "semantic", "coalesced"})
IN_MEMORY = frozenset({"loading", "awake", "draining"})

CELLS = 20
CELL_SECONDS = 15.0
"""A sparkline: so many cells, each of so long."""


class History:
    """The last readings. Belongs to one thread."""

    def __init__(self, endpoint: str, window_seconds: float) -> None:
        self._endpoint = endpoint
        self._window_seconds = window_seconds
        self._counters = Counters()
        self._points: list[Point] = []
        self._reading: Reading | None = None
        self._models: list[dict[str, Any]] = []

    def add(self, reading: Reading) -> None:
        """The newest reading."""
        self._reading = reading
        if reading.models is not None:
            self._models = reading.models
        if reading.metrics is not None:
            now = reading.metrics.counters | dict(_counted_by_variants(self._models))
            self._points.append(Point(reading.at, self._counters.add(now)))
        oldest = reading.at - max(self._window_seconds, (CELLS + 1) * CELL_SECONDS)
        # One that is older stays: what has happened since then is reckoned from it.
        while len(self._points) > 1 and self._points[1].at <= oldest:
            del self._points[0]

    def frame(self) -> Frame:
        """The screen as it is now: of the last seconds, or since the start where there is one reading only."""
        reading = self._reading
        assert reading is not None, "nothing was read yet"
        up = _up_seconds(self._models, reading.wall)
        window, today = self._window(up), reading.today
        lookups = window.by(LOOKUPS, "outcome")
        variants = tuple(_variant(window, model) for model in self._models)
        tokens = [one.tokens_per_second for one in variants if one.tokens_per_second is not None]
        parts = reading.health.get("parts") or {}
        return Frame(
            endpoint=self._endpoint,
            status=str(reading.health["status"]),
            up_seconds=up,
            window_seconds=window.seconds if len(self._points) > 1 else None,
            requests_per_second=window.rate(LOOKUPS),
            tokens_per_second=sum(tokens) if tokens else None,
            hit_rate=hit_rate(lookups),
            requests=self._cells(lambda cell: cell.rate(LOOKUPS)),
            hits=self._cells(lambda cell: hit_rate(cell.by(LOOKUPS, "outcome"))),
            cost_today_usd=None if today is None else today.get("cost_usd", 0.0),
            saved_today_usd=None if today is None else today.get("saved_usd", 0.0),
            cost_of_all_keys=reading.sees_all,
            canary=_canary(reading.canary),
            refused={cause: count for cause, count in window.by(REFUSED, "cause").items() if count},
            budgets=_budgets(reading),
            variants=variants,
            nodes=_nodes(self._models),
            cache=_cache(reading.cache or {}, parts.get("cache") or {}, lookups),
            ledger=_ledger(parts.get("ledger") or {}),
        )

    def _window(self, up_seconds: float | None) -> Window:
        reading, points = self._reading, self._points
        if reading is None or reading.metrics is None or not points:
            return Window(Point(0.0), Point(0.0))
        last = points[-1]
        if len(points) == 1:
            return Window(Point(last.at - (up_seconds or 0.0)), last)
        return Window(self._by(last.at - self._window_seconds) or points[0], last)

    def _by(self, at: float) -> Point | None:
        """The newest point by then."""
        place = bisect_right(self._points, at, key=lambda point: point.at)
        return self._points[place - 1] if place else None

    def _cells(self, shown: Callable[[Window], float | None]) -> tuple[float | None, ...]:
        """The last minutes, cell by cell. Cells begin at whole multiples, so that none changes once it is over."""
        if len(self._points) < 2:
            return ()
        newest = math.floor(self._points[-1].at / CELL_SECONDS)
        cells: list[float | None] = []
        for cell in range(newest - CELLS + 1, newest + 1):
            first, last = self._by(cell * CELL_SECONDS), self._by((cell + 1) * CELL_SECONDS)
            observed = first is not None and last is not None and last.at > first.at
            cells.append(shown(Window(first, last)) if observed and first and last else None)
        return tuple(cells)


def hit_rate(lookups: dict[str, float]) -> float | None:
    """Hits ÷ (hits + misses), as `/v1/cache/stats` reckons; None where nobody has asked."""
    hits = sum(lookups.get(outcome, 0.0) for outcome in HITS)
    asked = hits + lookups.get("miss", 0.0)
    return hits / asked if asked else None


def _up_seconds(models: list[dict[str, Any]], now: float) -> float | None:
    """Since the Router, which tells of the models, began."""
    began = max((float(model["created"]) for model in models if "created" in model), default=None)
    return None if began is None else max(0.0, now - began)


def _counted_by_variants(models: list[dict[str, Any]]) -> Iterator[tuple[Series, float]]:
    for model in models:
        counted = (model.get("status") or {}).get("completion_tokens")
        # (Of several replicas now one answers, now another.)
        if counted is not None and model.get("replicas", 1) == 1:
            yield (STATUS_TOKENS, frozenset({("variant", str(model["id"]))})), float(counted)


def _variant(window: Window, model: dict[str, Any]) -> VariantLine:
    name, status = str(model["id"]), model.get("status") or {}
    asked = window.rate(DECISIONS, variant=name)
    slots = model.get("parallel")
    shares = 0.5, 0.95
    first_p50, first_p95 = window.quantiles(TTFT, shares, HITS, variant=name)
    answer_p50, answer_p95 = window.quantiles(LATENCY, shares, HITS, variant=name)
    return VariantLine(
        name=name,
        state=str(status.get("state", "unknown")),
        node=str(model.get("node", "head")),
        memory_mb=_measured(status),
        declared_mb=model.get("declared_memory_mb"),
        active=status.get("active"),
        slots=None if slots is None else slots * model.get("replicas", 1),
        waiting=status.get("waiting"),
        requests_per_minute=None if asked is None else 60 * asked,
        first_token_p50=first_p50,
        first_token_p95=first_p95,
        answer_p50=answer_p50,
        answer_p95=answer_p95,
        tokens_per_second=_tokens(window, name),
        moved={outcome: count for outcome, count in window.by(MOVES, "outcome", variant=name).items() if count},
    )


def _tokens(window: Window, name: str) -> float | None:
    exported = name in window.by(TOKENS, "variant", kind="completion")
    if exported:
        return window.rate(TOKENS, variant=name, kind="completion")
    itself = name in window.by(STATUS_TOKENS, "variant")
    return window.rate(STATUS_TOKENS, variant=name) if itself else None


def _measured(status: dict[str, Any]) -> float | None:
    """What its process takes: of the card, where it is on one."""
    measured = status.get("gpu_memory_mb", status.get("memory_mb"))
    return None if measured is None else float(measured)


def _nodes(models: list[dict[str, Any]]) -> tuple[NodeLine, ...]:
    by_node: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        by_node.setdefault(str(model.get("node", "head")), []).append(model)
    return tuple(_node(name, there) for name, there in by_node.items())


def _node(name: str, models: list[dict[str, Any]]) -> NodeLine:
    states = {str(model["id"]): (model.get("status") or {}).get("state", "") for model in models}
    declared = {str(model["id"]): float(model.get("declared_memory_mb") or 0) for model in models}
    loading = tuple(one for one, state in states.items() if state == "loading")
    measured = [of for model in models if (of := _measured(model.get("status") or {})) is not None]
    return NodeLine(
        name=name,
        budget_mb=models[0].get("node_budget_mb"),
        used_mb=sum(declared[one] for one, state in states.items() if state in IN_MEMORY),
        loading_mb=sum(declared[one] for one in loading),
        measured_mb=sum(measured) if measured else None,
        loading=loading,
        away=set(states.values()) == {"away"},
    )


def _cache(stats: dict[str, Any], health: dict[str, Any], lookups: dict[str, float]) -> CacheLine:
    return CacheLine(
        ok=health.get("ok"),
        entries=stats.get("entries"),
        size_mb=stats.get("size_mb"),
        most_mb=stats.get("max_size_mb"),
        lookups=lookups,
        error=health.get("error"),
    )


def _ledger(health: dict[str, Any]) -> LedgerLine:
    return LedgerLine(
        ok=health.get("ok"),
        pending_bytes=health.get("pending_bytes"),
        refused_rows=health.get("refused_rows"),
        error=health.get("error"),
    )


def _budgets(reading: Reading) -> tuple[Budget, ...]:
    """The fullest first."""
    used: dict[tuple[str, str], float] = {}
    for (name, labels), share in reading.metrics.gauges.items() if reading.metrics else ():
        told = dict(labels)
        if name == BUDGET:
            # (Several Gateways may tell of the same.)
            whose = told.get("key", ""), told.get("period", "")
            used[whose] = max(share, used.get(whose, 0.0))
    fullest = sorted(used.items(), key=lambda one: -one[1])
    return tuple(Budget(key, period, share) for (key, period), share in fullest)


def _canary(told: dict[str, Any] | None) -> str | None:
    if not told:
        return None
    share, names = told["share"], ", ".join(told["variants"])
    return f"{names}: {share:.0%} of the requests, {told['answered']} answered, {told['failed']} failed"
