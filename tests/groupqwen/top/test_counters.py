from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupqwen.top.counters import Counters, Point, Series, Window, quantile, read_metrics

SCRAPED = (Path(__file__).parent / "metrics.txt").read_text()
"""A part of what `GET /v1/metrics` of a real group has said."""


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


def since_the_start(text: str) -> Window:
    return Window(Point(0.0), Point(100.0, Counters().add(read_metrics(text).counters)))


def test_a_real_scrape_is_read() -> None:
    window = since_the_start(SCRAPED)
    lookups = window.by("groupqwen_cache_lookups_total", "outcome")
    assert lookups == {"exact": 87.0, "miss": 207.0, "coalesced": 6.0}
    assert window.rate("groupqwen_cache_lookups_total") == 3.0
    tasks = {"smollm2-135m": 140.0, "qwen2.5-coder-0.5b": 41.0, "qwen2.5-coder-1.5b": 23.0}
    assert window.by("groupqwen_route_decisions_total", "variant") == tasks, "all tasks together"
    said = window.increase("groupqwen_engine_tokens_total", variant="smollm2-135m", kind="completion")
    assert said == 5183.0


def test_quantiles_are_of_answers_that_the_cache_has_not_given() -> None:
    window = since_the_start(SCRAPED)
    hits = frozenset({"exact"})
    fresh = window.quantiles("groupqwen_ttft_seconds", (0.5, 0.95), hits, variant="smollm2-135m")
    assert fresh == (pytest.approx(0.1 + 0.1 * 26 / 29), pytest.approx(1.3))
    all_of_them = window.quantiles("groupqwen_ttft_seconds", (0.5,), frozenset(), variant="smollm2-135m")
    assert all_of_them[0] is not None and all_of_them[0] < 0.11, "a hit takes milliseconds"
    assert window.quantiles("groupqwen_ttft_seconds", (0.5,), hits, variant="nobody") == (None,)


def test_what_nobody_counts_is_not_nothing() -> None:
    window = since_the_start(SCRAPED)
    assert window.increase("groupqwen_route_moves_total") is None
    assert window.rate("groupqwen_route_moves_total", variant="smollm2-135m") is None
    assert window.by("groupqwen_route_moves_total", "outcome") == {}
    assert window.increase("groupqwen_route_decisions_total", variant="nobody") == 0.0


def test_only_ours_is_kept() -> None:
    names = {name for name, _ in read_metrics(SCRAPED).counters}
    assert "groupqwen_ttft_seconds_bucket" in names
    assert not [name for name in names if "serve" in name or "active" in name]
    gauges = {name for name, _ in read_metrics(SCRAPED).gauges}
    assert gauges == {"groupqwen_engine_active", "groupqwen_residency_used_mb"}
    assert read_metrics("") == read_metrics("<html>503</html>\n") == ({}, {})


@pytest.mark.parametrize("line", ['ray_groupqwen_x_total{a="', "ray_groupqwen_x_total{} many", "ray_groupqwen_x{"])
def test_what_is_cut_off_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        read_metrics(f"# TYPE ray_groupqwen_x_total counter\n{line}\n")


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=5), max_size=5))
def test_replicas_that_begin_anew_lose_nothing_and_count_nothing_twice(lives: list[list[int]]) -> None:
    """Each life of a replica counts up from zero, in the same series (restarted within one process's labels)."""
    counters, counted = Counters(), 0.0
    told: list[float] = []
    one = series("groupqwen_n_total", WorkerId="w", variant="a")
    last = 0
    for life in lives:
        value = 0
        for step in life:
            value += step
            counters_say = counters.add({one: float(value)})
            # Whoever looks sees a restart only where the value is lower than before.
            counted += value - last if value >= last else value
            last = value
            told.append(counters_say[series("groupqwen_n_total", variant="a")])
            assert told[-1] == counted
    assert told == sorted(told)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcde"), st.floats(0, 1e9, allow_nan=False), max_size=5),
        min_size=2,
        max_size=8,
    )
)
def test_no_rate_is_ever_negative(scrapes: list[dict[str, float]]) -> None:
    """Whatever replicas come, go, and begin anew."""
    counters = Counters()
    points = [
        Point(float(at), counters.add({series("n", WorkerId=w, variant="v"): n for w, n in scrape.items()}))
        for at, scrape in enumerate(scrapes)
    ]
    for earlier in range(len(points)):
        for later in range(earlier + 1, len(points)):
            rate = Window(points[earlier], points[later]).rate("n", variant="v")
            assert rate is None or rate >= 0.0


def test_a_series_that_is_missing_for_a_while_is_no_new_one() -> None:
    counters, one = Counters(), series("n", variant="v")
    counters.add({one: 100.0})
    before = Point(1.0, counters.add({}))
    assert Window(before, Point(2.0, counters.add({one: 105.0}))).increase("n") == 5.0


def test_a_window_of_no_time_has_no_rate() -> None:
    point = Point(1.0, {series("n"): 5.0})
    assert Window(point, point).rate("n") is None


bounds = st.lists(st.floats(0.001, 1000), min_size=1, max_size=8, unique=True)
observed = st.lists(st.floats(0, 2000), min_size=1, max_size=60)


@given(bounds, observed, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_lie_in_the_bucket_of_what_was_observed(
    ends: list[float], values: list[float], one: float, other: float
) -> None:
    ends = [*sorted(ends), math.inf]
    buckets = {end: float(sum(value <= end for value in values)) for end in ends}
    low, high = (quantile(buckets, share) for share in sorted((one, other)))
    assert low is not None and high is not None
    assert 0.0 <= low <= high + 1e-9 <= ends[-2] + 2e-9
    median = sorted(values)[math.ceil(len(values) / 2) - 1]
    below = max((end for end in ends if end < median), default=0.0)
    above = min(end for end in ends if end >= median)
    estimate = quantile(buckets, 0.5)
    assert estimate is not None
    assert below - 1e-9 <= estimate <= (below if math.isinf(above) else above) + 1e-9


def test_quantiles_of_nothing_and_of_buckets_that_do_not_add_up() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.5) is None
    assert quantile({1.0: 4.0, 2.0: 3.0, math.inf: 4.0}, 0.5) == 0.5
    assert quantile({1.0: 0.0, math.inf: 3.0}, 0.5) == 1.0, "beyond the last bound"
