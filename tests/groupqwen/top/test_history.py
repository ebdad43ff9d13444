from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from deployments.residency.machine import HOLDING
from deployments.router.decision import HITS as ROUTERS_HITS
from groupqwen.top.counters import Scraped
from groupqwen.top.frame import Budget, Frame
from groupqwen.top.history import CELLS, HITS, IN_MEMORY, History
from groupqwen.top.sources import Reading
from tests.groupqwen.top.readings import counted, model, reading


def frame_of(*readings: Reading, window: float = 60.0) -> Frame:
    history = History("http://here/v1", window)
    for one in readings:
        history.add(one)
    return history.frame()


def test_the_words_are_those_of_the_router_and_of_residency() -> None:
    assert frozenset(ROUTERS_HITS) == HITS
    assert frozenset(state.value for state in HOLDING) == IN_MEMORY


def test_one_reading_shows_the_means_since_the_start() -> None:
    frame = frame_of(reading(100.0, counted(lookups__outcome_exact=30, lookups__outcome_miss=70)))
    assert (frame.window_seconds, frame.up_seconds) == (None, 100.0)
    assert (frame.requests_per_second, frame.hit_rate) == (1.0, 0.3)
    assert (frame.requests, frame.hits) == ((), ())
    assert frame.tokens_per_second == 1.0, "as the variant says: nothing else has counted"
    assert (frame.cost_today_usd, frame.saved_today_usd, frame.cost_of_all_keys) == (0.5, 1.5, True)


def test_two_readings_show_what_was_between_them() -> None:
    frame = frame_of(
        reading(100.0, counted(lookups__outcome_exact=30, lookups__outcome_miss=70, decisions__variant_small=50)),
        reading(
            110.0,
            counted(
                lookups__outcome_exact=39,
                lookups__outcome_miss=71,
                lookups__outcome_bypass=10,
                decisions__variant_small=52,
                moves__variant_small__outcome_escalated=3,
                tokens__variant_small__kind_completion=40,
                tokens__variant_small__kind_prompt=4000,
            ),
        ),
    )
    assert frame.window_seconds == 10.0
    assert (frame.requests_per_second, frame.hit_rate, frame.tokens_per_second) == (2.0, 0.9, 4.0)
    [small] = frame.variants
    assert (small.requests_per_minute, small.tokens_per_second) == (12.0, 4.0)
    assert small.moved == {"escalated": 3.0}
    assert frame.cache.lookups == {"exact": 9.0, "miss": 1.0, "bypass": 10.0}


def test_the_window_moves_on() -> None:
    readings = [reading(float(at), counted(lookups__outcome_miss=min(at, 50))) for at in range(0, 200, 2)]
    assert frame_of(*readings, window=20.0).requests_per_second == 0.0
    assert frame_of(*readings, window=20.0).window_seconds == 20.0
    assert frame_of(*readings[:20], window=20.0).requests_per_second == 1.0


def test_a_router_that_was_replaced_counts_on() -> None:
    frame = frame_of(
        reading(0.0, counted("before", lookups__outcome_miss=1000)),
        reading(10.0, counted("after", lookups__outcome_miss=4)),
    )
    assert frame.requests_per_second == 0.4


def test_a_metrics_agent_that_is_away_is_no_standstill() -> None:
    frame = frame_of(
        reading(0.0, counted(lookups__outcome_miss=0)),
        reading(2.0, counted(lookups__outcome_miss=9)),
        reading(4.0),
    )
    assert (frame.requests_per_second, frame.hit_rate) == (None, None)
    assert frame.variants[0].state == "awake", "and the rest is shown"


def test_cells_of_the_last_minutes() -> None:
    """A request a second for a minute, then a minute of rest in which nobody could look, then two a second."""
    busy = [reading(float(at), counted(lookups__outcome_exact=at)) for at in range(600, 661, 5)]
    again = [reading(float(at), counted(lookups__outcome_exact=2 * at)) for at in range(720, 751, 5)]
    frame = frame_of(*busy, *again)
    assert len(frame.requests) == len(frame.hits) == CELLS
    assert frame.requests[-1] is None, "the cell that has just begun"
    assert frame.requests[-3:-1] == (2.0, 2.0)
    assert frame.requests[:9] == (None,) * 9, "before anyone looked"
    assert frame.requests[9:16] == (*[1.0] * 4, *[None] * 3)
    assert frame.requests[16] == 13.0, "what has happened meanwhile, over all of that time"
    assert {share for share in frame.hits if share is not None} == {1.0}


def test_memory_by_node() -> None:
    frame = frame_of(
        reading(
            0.0,
            models=[
                model("in", declared_memory_mb=1000, status={"memory_mb": 900}),
                model("coming", declared_memory_mb=2000, status={"state": "loading", "memory_mb": 300}),
                model("out", declared_memory_mb=4000, status={"state": "absent", "memory_mb": 100}),
                model("on-a-card", node="macbook", status={"gpu_memory_mb": 700, "memory_mb": 5}),
                {**model("gone", node="phone"), "status": {"state": "away"}},
            ],
        )
    )
    head, macbook, phone = frame.nodes
    assert (head.used_mb, head.loading_mb, head.measured_mb, head.budget_mb) == (3000.0, 2000.0, 1300.0, 4096)
    assert head.loading == ("coming",)
    assert (macbook.measured_mb, macbook.away) == (700.0, False)
    assert (phone.used_mb, phone.measured_mb, phone.away) == (0.0, None, True)
    assert frame.variants[-1].active is None


def test_several_replicas_are_not_counted_by_what_one_of_them_says() -> None:
    two = [model("small", replicas=2, status={"completion_tokens": said}) for said in (10, 900, 20)]
    frame = frame_of(*(reading(float(at), {}, models=[one]) for at, one in enumerate(two)))
    assert frame.variants[0].tokens_per_second is None
    assert frame.variants[0].slots == 8


def test_an_endpoint_that_tells_next_to_nothing() -> None:
    bare: dict[str, Any] = {"models": None, "cache": None, "today": None, "sees_all": False}
    frame = frame_of(reading(0.0, health={"status": "down"}, **bare))
    assert (frame.status, frame.variants, frame.nodes) == ("down", (), ())
    assert (frame.up_seconds, frame.cost_today_usd, frame.ledger.ok, frame.cache.entries) == (None,) * 4
    older = frame_of(reading(0.0, {}, models=[{"id": "small"}]))
    assert (older.variants[0].state, older.variants[0].slots, older.nodes[0].budget_mb) == ("unknown", None, None)


def test_models_that_are_not_told_for_a_moment_stay() -> None:
    assert [one.name for one in frame_of(reading(0.0), reading(2.0, models=None)).variants] == ["small"]


def test_what_is_away_says_why() -> None:
    parts = {
        "cache": {"ok": False, "error": "ConnectionError: Redis"},
        "ledger": {"ok": False, "error": "OSError: refused", "pending_bytes": 2048, "refused_rows": 1},
    }
    frame = frame_of(reading(0.0, health={"status": "degraded", "parts": parts}))
    assert (frame.cache.ok, frame.cache.error) == (False, "ConnectionError: Redis")
    assert (frame.ledger.pending_bytes, frame.ledger.error) == (2048, "OSError: refused")


def test_budgets_and_who_was_refused() -> None:
    used = {
        ("groupqwen_budget_used_ratio", frozenset({("key", key), ("period", "day"), ("WorkerId", worker)})): share
        for key, worker, share in (("key_a", "1", 0.2), ("key_b", "1", 0.5), ("key_b", "2", 0.9))
    }
    counters = counted(refused__cause_insufficient_quota=3)
    frame = frame_of(reading(10.0, metrics=Scraped(counters, used)))
    assert frame.budgets == (Budget("key_b", "day", 0.9), Budget("key_a", "day", 0.2))
    assert frame.refused == {"insufficient_quota": 3.0}


def test_a_canary_is_told() -> None:
    canary = {"variants": ["small"], "share": 0.1, "answered": 9, "failed": 1}
    assert frame_of(reading(0.0, canary=canary)).canary == "small: 10% of the requests, 9 answered, 1 failed"


def test_a_frame_survives_json() -> None:
    frame = frame_of(
        reading(0.0, counted(lookups__outcome_miss=1)), reading(9.0, counted(lookups__outcome_miss=5))
    )
    assert TypeAdapter(Frame).validate_json(json.dumps(asdict(frame))) == frame


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=12)
)
def test_whatever_is_counted_a_frame_is_sane(steps: list[tuple[float, int, int, bool]]) -> None:
    """Times that pass, hits, misses, and whether the Router was replaced meanwhile."""
    history, at, hits, misses, life = History("http://here/v1", 60.0), 0.0, 0, 0, 0
    history.add(reading(at, {}))
    for seconds, more_hits, more_misses, replaced in steps:
        at += seconds
        hits, misses, life = (0, 0, life + 1) if replaced else (hits, misses, life)
        hits, misses = hits + more_hits, misses + more_misses
        history.add(reading(at, counted(str(life % 2), lookups__outcome_exact=hits, lookups__outcome_miss=misses)))
        frame = history.frame()
        assert frame.requests_per_second is not None and frame.requests_per_second >= 0
        assert frame.hit_rate is None or 0 <= frame.hit_rate <= 1
        assert all(cell is None or cell >= 0 for cell in frame.requests)
        assert all(cell is None or 0 <= cell <= 1 for cell in frame.hits)
        assert frame.window_seconds == pytest.approx(frame.window_seconds)
