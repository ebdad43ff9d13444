"""One key's books, by hand and by chance."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.budgets.book import BUSY_SECONDS, LEASE_SECONDS, Book
from deployments.budgets.limits import PERIODS, Amount, KeyLimits, period_begin, period_end, period_name

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
ONE = Amount(100, 1.0)


def known(**spent: float) -> Book:
    book = Book()
    book.known({period: spent.get(period, 0.0) for period in PERIODS}, NOW)
    return book


def test_whoever_was_refused_is_served_when_the_time_is_over_that_was_told() -> None:
    book, limits = Book(), KeyLimits(requests_per_minute=2)
    assert [book.reserve(str(n), ONE, limits, NOW).refused for n in range(3)] == [None, None, "requests"]
    told = book.reserve("3", ONE, limits, NOW)
    assert told.retry_after == pytest.approx(30)
    assert book.reserve("4", ONE, limits, NOW + 29).refused == "requests"
    assert book.reserve("5", ONE, limits, NOW + told.retry_after).refused is None


def test_tokens_are_held_at_most_and_given_back_to_what_was_taken() -> None:
    book, limits = Book(), KeyLimits(tokens_per_minute=150)
    assert book.reserve("a", ONE, limits, NOW).tokens_left == pytest.approx(50)
    assert book.reserve("b", ONE, limits, NOW).refused == "tokens"
    book.settle("a", Amount(10, 0.0), limits, NOW)
    assert book.reserve("b", ONE, limits, NOW).tokens_left == pytest.approx(40)
    book.settle("b", Amount(400, 0.0), limits, NOW)
    told = book.reserve("c", ONE, limits, NOW)
    assert told.refused == "tokens", "what was taken beyond the reservation is owed"
    assert book.reserve("c", ONE, limits, NOW + told.retry_after).refused is None


def test_one_that_is_larger_than_a_minute_is_served_from_a_full_bucket() -> None:
    book, limits = Book(), KeyLimits(tokens_per_minute=10)
    assert book.reserve("a", ONE, limits, NOW).refused is None
    assert book.reserve("b", ONE, limits, NOW + 60).refused == "tokens"


def test_places_are_free_again_when_requests_end_or_nobody_renews_them() -> None:
    book, limits = Book(), KeyLimits(concurrent=1)
    assert book.reserve("a", ONE, limits, NOW).refused is None
    told = book.reserve("b", ONE, limits, NOW)
    assert (told.refused, told.retry_after) == ("concurrent", BUSY_SECONDS)
    book.settle("a", ONE, limits, NOW)
    assert book.reserve("b", ONE, limits, NOW).refused is None
    book.renew({"b": ONE}, NOW + LEASE_SECONDS - 1)
    assert book.reserve("c", ONE, limits, NOW + LEASE_SECONDS + 1).refused == "concurrent"
    assert book.reserve("c", ONE, limits, NOW + 3 * LEASE_SECONDS).refused is None


def test_a_budget_is_overshot_by_one_reservation_at_most() -> None:
    book, limits = known(day=9.5), KeyLimits(usd_per_day=10)
    assert book.reserve("a", ONE, limits, NOW).refused is None, "there is something left"
    told = book.reserve("b", ONE, limits, NOW)
    assert (told.refused, told.retry_after) == ("day", BUSY_SECONDS), "but not for two"
    book.settle("a", Amount(0, 0.0), limits, NOW)
    assert book.reserve("b", ONE, limits, NOW).refused is None, "who failed has given it back"
    book.settle("b", ONE, limits, NOW)
    told = book.reserve("c", ONE, limits, NOW)
    assert (told.refused, told.retry_after) == ("day", 12 * 3600), "it is used up until midnight"
    assert book.reserve("c", ONE, limits, NOW + 12 * 3600).refused is None, "and whole again"


def test_what_nobody_has_told_is_unknown_and_a_period_that_begins_is_not() -> None:
    limits = KeyLimits(usd_per_day=1, usd_per_month=5)
    assert Book().reserve("a", ONE, limits, NOW).unknown == ("day", "month")
    book = known(day=2)
    assert book.reserve("a", ONE, limits, NOW).refused == "day"
    assert book.reserve("a", ONE, limits, NOW + 86_400).unknown == ()


def test_a_clock_that_is_put_back_holds_nobody_up_and_forgets_no_spending() -> None:
    book, limits = known(day=1), KeyLimits(requests_per_minute=1, usd_per_day=1, concurrent=1)
    assert book.reserve("a", ONE, limits, NOW - 86_400).refused == "day"
    free = KeyLimits(requests_per_minute=1, concurrent=1)
    assert book.reserve("a", ONE, free, NOW).refused is None
    earlier = NOW - 7200
    assert book.reserve("b", ONE, free, earlier).refused == "requests", "its place ends too late to be true"
    assert book.reserve("b", ONE, free, earlier + 60).refused is None


@pytest.mark.parametrize(
    ("period", "name", "begin", "end"),
    [
        ("day", "2026-11-26", "2026-11-26", "2026-11-27"),
        ("week", "2026-W48", "2026-11-23", "2026-11-30"),
        ("month", "2026-11", "2026-11-01", "2026-12-01"),
    ],
)
def test_periods_are_those_of_a_calendar(period: str, name: str, begin: str, end: str) -> None:
    day = datetime.fromisoformat
    assert period_name(period, NOW) == name  # type: ignore[arg-type]
    assert period_begin(period, NOW) == day(f"{begin}T00:00:00+00:00").timestamp()  # type: ignore[arg-type]
    assert period_end(period, NOW) == day(f"{end}T00:00:00+00:00").timestamp()  # type: ignore[arg-type]


@given(st.sampled_from(PERIODS), st.floats(0, 4e9), st.floats(0, 4e9))
def test_names_follow_each_other_as_the_periods_do(period: str, one: float, other: float) -> None:
    first, second = sorted((one, other))
    names = period_name(period, first), period_name(period, second)  # type: ignore[arg-type]
    assert names[0] <= names[1]
    assert period_begin(period, one) <= one < period_end(period, one)  # type: ignore[arg-type]
    assert period_name(period, period_end(period, one)) > period_name(period, one)  # type: ignore[arg-type]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "end", "fail", "wait"]),
        st.floats(0.0, 3.0),
        st.floats(0.0, 40.0),
    ),
    max_size=60,
)


@given(STEPS, st.floats(0.5, 8.0), st.integers(1, 4))
def test_whatever_happens_no_budget_is_overshot_by_more_than_one_reservation(
    steps: list[tuple[str, float, float]], budget: float, concurrent: int
) -> None:
    book, limits = known(), KeyLimits(usd_per_day=budget, concurrent=concurrent)
    under_way: dict[str, float] = {}
    now, spent, largest = NOW, 0.0, 0.0
    for number, (what, usd, seconds) in enumerate(steps):
        if what == "wait":
            now += seconds
            book.renew({name: Amount(0, most) for name, most in under_way.items()}, now)
        elif what == "ask":
            if book.reserve(str(number), Amount(0, usd), limits, now).refused is None:
                under_way[str(number)] = usd
                largest = max(largest, usd)
        elif under_way:
            name, most = under_way.popitem()
            took = most if what == "end" else 0.0
            spent += took
            book.settle(name, Amount(0, took), limits, now)
        assert len(under_way) <= concurrent
        assert spent + sum(under_way.values()) <= budget + largest + 1e-9
    for name in list(under_way):
        book.settle(name, Amount(0, 0.0), limits, now)
    assert book.held_usd == 0
    if spent < budget:
        assert book.reserve("last", Amount(0, 0.0), limits, now).refused is None, "nobody is refused for ever"
