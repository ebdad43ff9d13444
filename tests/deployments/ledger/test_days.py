"""Which days of the query log go, and which clock is believed."""

from __future__ import annotations

from datetime import UTC, date, datetime

from deployments.ledger.days import CLOCK_TOLERANCE_SECONDS, PARTITION, Retention, day_of, partition

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()


class Clocks:
    def __init__(self) -> None:
        self.wall, self.steady = NOON, 100.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def retention(self, days: int | None) -> Retention:
        return Retention(days, lambda: self.wall, lambda: self.steady)


def test_days_beyond_what_is_kept_may_go_and_nobody_looks_all_the_time() -> None:
    clocks = Clocks()
    kept = clocks.retention(30)
    assert kept.first_kept() == date(2026, 10, 27)
    assert kept.first_kept() is None, "it was looked at a moment ago"
    clocks.pass_by(13 * 3600)
    assert kept.first_kept() == date(2026, 10, 28)
    assert clocks.retention(None).first_kept() is None


def test_a_clock_that_was_moved_deletes_nothing_until_it_is_right_again() -> None:
    clocks = Clocks()
    kept = clocks.retention(30)
    clocks.wall += 10 * 365 * 86_400
    assert kept.first_kept() is None
    clocks.wall -= 10 * 365 * 86_400 - CLOCK_TOLERANCE_SECONDS / 2
    clocks.pass_by(3601)
    assert kept.first_kept() is not None


def test_partitions_are_called_by_their_day() -> None:
    assert partition(day_of(NOON)) == "queries_20261126"
    assert PARTITION.fullmatch(partition(date(1, 1, 1)))
    assert not PARTITION.fullmatch("queries_whole")
