"""What the load benchmark concludes from what it has seen."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from benchmarks.growth import growth, whose
from benchmarks.ledger_rows import ANSWERED, LEFT, Asked, Compared, Row, compare
from benchmarks.ledger_work import METRIC, alone, read_histogram


def asked(name: str, *ids: str, kind: str = "whole", statuses: frozenset[int] = ANSWERED) -> Asked:
    return Asked(f"load-{name}", kind, ids or (name,), "200", statuses)


def one(*rows: Row, of: Asked) -> Compared:
    return compare([of], rows)


def test_each_answer_once_is_exact() -> None:
    found = compare(
        [asked("a"), asked("b", "b", "b-1"), asked("c", kind="left", statuses=LEFT)],
        [
            Row("a", "load-a", 200),
            Row("b", "load-b", 200),
            Row("b-1", "load-b", 200),
            Row("c", "load-c", 499),
            Row("a-check", "load-a", 200),
        ],
    )
    assert found.exact and found.anew == 1
    whole = found.kinds["whole"]
    assert (whole.asked, whole.answered, whole.owed, whole.rows) == (2, 2, 3, 3)
    assert found.kinds["left"].rows == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "a is missing"),
        ([Row("a", "load-a", 200)] * 2, "a is there 2 times"),
        ([Row("a", "load-a", 499)], "a says 499"),
        ([Row("a", "load-b", 200)], "of 'load-b'"),
    ],
)
def test_what_is_wrong_is_told(rows: list[Row], told: str) -> None:
    found = one(*rows, of=asked("a"))
    assert not found.exact
    (fault,) = found.wrong
    assert told in fault
    tally = found.kinds["whole"]
    assert tally.missing + tally.twice + tally.otherwise == 1


def test_a_row_of_nobody_is_told() -> None:
    found = one(Row("a", "load-a", 200), Row("x", "", 200), Row("y-check", "load-a", 200), of=asked("a"))
    assert [stranger.split(":")[0] for stranger in found.strangers] == ["x", "y-check"]
    assert not found.exact


def test_who_left_before_an_answer_has_one_row_or_none() -> None:
    early = Asked("load-e", "early", (), "left", LEFT, known=False)
    assert one(of=early).exact
    found = one(Row("e", "load-e", 499), of=early)
    assert found.exact and found.kinds["early"].rows == 1 and not found.kinds["early"].answered
    assert not one(Row("e", "load-e", 499), Row("e", "load-e", 499), of=early).exact


def test_of_several_prompts_one_says_why_all_failed() -> None:
    failed = Asked("load-a", "texts", ("a", "a-1"), "429", frozenset({200, 429, 499}), frozenset({429}))
    assert one(Row("a", "load-a", 200), Row("a-1", "load-a", 429), of=failed).exact
    assert not one(Row("a", "load-a", 200), Row("a-1", "load-a", 200), of=failed).exact


def test_a_request_that_was_none_owes_no_row() -> None:
    refused = Asked("load-a", "no key", (), "401", frozenset({401}))
    assert one(of=refused).exact
    assert not one(Row("a", "load-a", 401), of=refused).exact


SECONDS = [float(second) for second in range(600)]


def test_noise_and_a_warm_start_are_no_growth() -> None:
    draw = Random(0)
    mib = [200 + min(second, 50) + draw.gauss(0, 3) + 80 * (second % 97 == 0) for second in SECONDS]
    fit = growth(SECONDS, mib)
    assert fit is not None and not fit.grown
    assert fit.slope == pytest.approx(0, abs=0.2)
    assert fit.first == pytest.approx(250, abs=5)


def test_a_leak_is_growth() -> None:
    draw = Random(0)
    fit = growth(SECONDS, [200 + second / 60 + draw.gauss(0, 3) for second in SECONDS])
    assert fit is not None and fit.grown
    assert fit.slope == pytest.approx(1, abs=0.1) and fit.late_slope == pytest.approx(1, abs=0.4)


def test_what_settles_late_is_told_from_what_goes_on() -> None:
    fit = growth(SECONDS, [100 + min(second, 200) for second in SECONDS])
    assert fit is not None and fit.late_slope == 0


def test_a_short_run_says_nothing_of_growth() -> None:
    assert growth(SECONDS[:65], SECONDS[:65]) is None


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ray::ServeReplica:groupqwen:qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("ray::ServeReplica:groupqwen:qwen2.5-coder-0.5b.handle_request_streaming", "qwen2.5-coder-0.5b"),
        ("ray::ServeReplica:groupqwen:Router", "Router"),
        ("postgres: ledger writer", "PostgreSQL"),
        ("/home/redis/bin/redis-server unixsocket:/run/redis.sock", "Redis"),
        ("sleep 5", None),
    ],
)
def test_processes_are_known_by_their_command_line(command: str, name: str | None) -> None:
    assert whose(command) == name


def test_quantiles_of_what_prometheus_is_told() -> None:
    counts = {"0.0001": 10, "0.0005": 90, "0.001": 100, "+Inf": 100}
    text = "\n".join(
        f'{METRIC}_bucket{{replica="{replica}",clock="{clock}",le="{bound}"}} {count}.0'
        for replica, clock in (("a", "wall"), ("b", "wall"), ("a", "cpu"))
        for bound, count in counts.items()
    )
    found = read_histogram(f'# TYPE {METRIC} histogram\n{text}\n{METRIC}_count{{replica="a"}} 100.0\n', "wall")
    assert found.count == 200
    assert found.within(0.0005) == 0.9
    assert found.quantile(0.5) == pytest.approx(0.0003)
    assert found.quantile(0.95) == pytest.approx(0.00075)
    with pytest.raises(ValueError, match="nothing"):
        read_histogram("", "wall").quantile(0.5)


def test_a_row_by_itself_is_timed() -> None:
    spent = asyncio.run(alone(20))
    assert len(spent) == 18 and all(one.wall > 0 and one.cpu > 0 for one in spent)
