"""What one screen of `groupqwen top` says. Made by `history.py`, set by `view.py`, and printed by `--json`.

Times are seconds, memory is MiB. None: it cannot be said, because nothing counts it or nothing has happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VariantLine:
    """`active` of `slots` are being answered, `waiting` are not yet. Times are of answers that the cache has not
    given. `moved`: requests that another variant took over, by cause."""

    name: str
    state: str
    node: str
    memory_mb: float | None = None
    declared_mb: float | None = None
    active: int | None = None
    slots: int | None = None
    waiting: int | None = None
    requests_per_minute: float | None = None
    first_token_p50: float | None = None
    first_token_p95: float | None = None
    answer_p50: float | None = None
    answer_p95: float | None = None
    tokens_per_second: float | None = None
    moved: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeLine:
    """`used_mb`: what the plan holds for those that are in memory, `loading_mb` of it for those that are coming;
    `measured_mb`: what their processes take."""

    name: str
    budget_mb: float | None
    used_mb: float
    loading_mb: float
    measured_mb: float | None
    loading: tuple[str, ...] = ()
    away: bool = False


@dataclass(frozen=True)
class CacheLine:
    """`ok`: whether Redis answers. `lookups`: outcomes of the window."""

    ok: bool | None = None
    entries: int | None = None
    size_mb: float | None = None
    most_mb: float | None = None
    lookups: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class LedgerLine:
    ok: bool | None = None
    pending_bytes: int | None = None
    refused_rows: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Budget:
    """`used`: the share of what a key may spend in this period."""

    key: str
    period: str
    used: float


@dataclass(frozen=True)
class Frame:
    """`window_seconds`: of the rates; None: they are means since the start. `requests` and `hits`: the last
    minutes, cell by cell, the newest last: a second's requests, and the share that the cache has answered.
    `refused`: by cause, in the window. `budgets`: the fullest first."""

    endpoint: str
    status: str
    up_seconds: float | None = None
    window_seconds: float | None = None
    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    hit_rate: float | None = None
    requests: tuple[float | None, ...] = ()
    hits: tuple[float | None, ...] = ()
    cost_today_usd: float | None = None
    saved_today_usd: float | None = None
    cost_of_all_keys: bool = False
    canary: str | None = None
    refused: dict[str, float] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    variants: tuple[VariantLine, ...] = ()
    nodes: tuple[NodeLine, ...] = ()
    cache: CacheLine = CacheLine()
    ledger: LedgerLine = LedgerLine()
