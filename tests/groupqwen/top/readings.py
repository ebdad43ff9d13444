"""Readings as the endpoint gives them."""

from __future__ import annotations

from typing import Any

from groupqwen.top.counters import Scraped, Series
from groupqwen.top.sources import Reading

START = 1_700_000_000


def model(name: str, **fields: Any) -> dict[str, Any]:
    status = {"state": "awake", "active": 1, "waiting": 0, "memory_mb": 512, "completion_tokens": 100}
    return {
        "id": name,
        "created": START,
        "parallel": 4,
        "replicas": 1,
        "node": "head",
        "node_budget_mb": 4096,
        "declared_memory_mb": 1024,
        **fields,
        "status": status | fields.get("status", {}),
    }


def counted(worker: str = "w", **values: float) -> dict[Series, float]:
    """`name__label_value`: a counter of the Router's, say `lookups__outcome_miss`."""
    names = {
        "lookups": "groupqwen_cache_lookups_total",
        "decisions": "groupqwen_route_decisions_total",
        "moves": "groupqwen_route_moves_total",
        "tokens": "groupqwen_engine_tokens_total",
        "refused": "groupqwen_refused_total",
    }
    found: dict[Series, float] = {}
    for told, value in values.items():
        name, *labels = told.split("__")
        pairs = {("WorkerId", worker), *(tuple(label.split("_", 1)) for label in labels)}
        found[names[name], frozenset(pairs)] = value  # type: ignore[arg-type]
    return found


def reading(at: float, counters: dict[Series, float] | None = None, **fields: Any) -> Reading:
    usual: dict[str, Any] = {
        "health": {
            "status": "ok",
            "parts": {
                "cache": {"ok": True, "error": None},
                "ledger": {"ok": True, "error": None, "pending_bytes": 0, "refused_rows": 0},
            },
        },
        "models": [model("small")],
        "metrics": None if counters is None else Scraped(counters, {}),
        "cache": {"entries": 41, "size_mb": 0.2, "max_size_mb": 256},
        "today": {"cost_usd": 0.5, "saved_usd": 1.5},
        "sees_all": True,
    }
    return Reading(at=at, wall=START + at, **{**usual, **fields})
