from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from groupqwen.top.frame import Budget, CacheLine, Frame, LedgerLine, NodeLine, VariantLine
from groupqwen.top.view import ORDERS, Screen
from groupqwen.top.words import bar, dollars, duration, number, pair, size, sparkline

BUSY = VariantLine(
    name="qwen2.5-coder-1.5b",
    state="awake",
    node="head",
    memory_mb=1536,
    active=3,
    slots=4,
    waiting=2,
    requests_per_minute=31.4,
    first_token_p50=0.123,
    first_token_p95=12.34,
    answer_p50=1.0,
    answer_p95=300.0,
    tokens_per_second=46.2,
    moved={"escalated": 3.0},
)
FRAME = Frame(
    endpoint="http://127.0.0.1:8000/v1",
    status="degraded",
    up_seconds=4440,
    window_seconds=60,
    requests_per_second=1.9,
    tokens_per_second=46.2,
    hit_rate=0.43,
    requests=(*[None] * 10, *[1.0] * 10),
    hits=(*[None] * 10, *[0.5] * 10),
    cost_today_usd=0.0123,
    saved_today_usd=2.5,
    cost_of_all_keys=True,
    variants=(VariantLine("smollm2-135m", "absent", "head", memory_mb=100), BUSY),
    nodes=(
        NodeLine("head", 4096, 3072, 1024, 2900, loading=("smollm2-135m",)),
        NodeLine("macbook", None, 0, 0, None),
    ),
    cache=CacheLine(True, 41, 0.2, 256, {"exact": 9.0, "miss": 12.0, "bypass": 1.0}),
    ledger=LedgerLine(False, 2048, 1, "OSError: refused"),
)


def shown(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    """Its lines without any style."""
    console = Console(width=width, height=height, file=io.StringIO(), no_color=True, color_system=None)
    with console.capture() as captured:
        console.print(screen)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_everything_is_said_without_colour() -> None:
    text = "\n".join(shown(Screen(FRAME, keys=True, problem="lost the endpoint, trying again"), width=120))
    for said in (
        "degraded",
        "1 h 14 min",
        "of the last 1 min 0 s",
        "1.90 requests/s",
        "46.2 tokens/s",
        "43% hits",
        "$0.0123 today (saved $2.50)",
        "lost the endpoint, trying again",
        "3/4+2",
        "0.12/12.3",
        "1.00/300",
        "3 escalated",
        "3.0 of 4.0 GiB, measured 2.8",
        "loading smollm2-135m",
        "41 entries, 0.2 of 256 MiB: exact 9, semantic 0, miss 12, bypass 1",
        "away: OSError: refused, 2 KiB wait, 1 rows refused",
        "q quits",
    ):
        assert said in text, said


def test_a_small_terminal_holds_all_of_it() -> None:
    many = tuple(replace(BUSY, name=f"a-variant-with-a-long-name-{n}") for n in range(30))
    lines = shown(Screen(replace(FRAME, variants=many, canary="x: 10%"), keys=True, problem="lost"))
    assert len(lines) <= 24
    assert max(map(cell_len, lines)) <= 80
    assert any(line.startswith("and ") and line.endswith(" more") for line in lines)
    assert "q quits" in lines[-1]
    assert sum("3/4+2" in line for line in lines) == 9
    assert len(shown(Screen(replace(FRAME, variants=many)))) > 30, "what is printed once is whole"


def test_limits_are_told_where_they_are_met() -> None:
    assert not any(line.startswith("limits") for line in shown(Screen(FRAME)))
    limited = replace(FRAME, budgets=(Budget("key_a", "day", 0.83),), refused={"rate_limit": 2.0})
    assert "limits   key_a has used 83% of its day, refused 2 rate_limit" in shown(Screen(limited))


def test_what_moved_has_a_line_of_its_own_where_its_column_has_no_room() -> None:
    assert "moved    qwen2.5-coder-1.5b 3 escalated" in shown(Screen(FRAME))
    assert not any(line.startswith("moved") for line in shown(Screen(FRAME), width=120))


@given(st.integers(20, 200), st.integers(10, 60), st.integers(0, 40), st.booleans())
def test_no_line_is_wider_than_the_terminal(width: int, height: int, count: int, keys: bool) -> None:
    many = tuple(replace(BUSY, name=f"variant-{n}") for n in range(count))
    lines = shown(Screen(replace(FRAME, variants=many), keys=keys), width, height)
    assert max(map(cell_len, lines)) <= width
    if keys and height >= 24:
        assert len(lines) <= height


def test_nothing_known_is_dashes() -> None:
    lines = shown(Screen(Frame("http://127.0.0.1:8000/v1", "down", variants=(VariantLine("a", "away", "head"),))))
    assert "– requests/s" in lines[1] and "means since the start" in lines[0]
    row = next(line for line in lines if line.startswith("a "))
    assert row.split()[2:] == ["–"] * 6


@pytest.mark.parametrize(
    ("order", "first"),
    [("profile", "smollm2-135m"), *((order, BUSY.name) for order in ORDERS if order != "profile")],
)
def test_the_order(order: str, first: str) -> None:
    lines = shown(Screen(FRAME, order=order))
    rows = [line.split()[0] for line in lines if line.startswith(("smollm2", "qwen2.5"))]
    assert (rows[0], len(rows)) == (first, 2), "those that say nothing come last"


def test_the_cost_of_one_key_says_so() -> None:
    assert shown(Screen(replace(FRAME, cost_of_all_keys=False)))[1].endswith("$0.0123 today, yours")


def test_words() -> None:
    assert [number(value) for value in (None, 0.0, 9.994, 9.996, 99.96, 1234.5)] == [
        "–",
        "0.00",
        "9.99",
        "10.0",
        "100",
        "1234",
    ]
    assert [pair(None, None), pair(0.5, None)] == ["–", "0.50/–"]
    assert [size(count) for count in (0, 1023, 2048, 5 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "2 KiB",
        "5 MiB",
        "3072.0 GiB",
    ]
    assert [duration(seconds) for seconds in (None, 5, 65, 3660, 90_000)] == [
        "–",
        "5 s",
        "1 min 5 s",
        "1 h 1 min",
        "1 d 1 h",
    ]
    assert [dollars(value) for value in (None, 0.0, 1.5)] == ["–", "$0.0000", "$1.50"]


def test_sparklines() -> None:
    assert sparkline([0.0, 1.0, None, 2.0]) == "▁▅ █"
    assert sparkline([0.5], most=1.0) == "▅"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.one_of(st.none(), st.floats(-1, 1e6)), st.integers(1, 60))
def test_a_bar_is_as_wide_as_it_must_be(filled: float, coming: float, budget: float | None, width: int) -> None:
    drawn = bar(filled, coming, budget, width)
    assert len(drawn) == width
    if budget is not None and budget >= 1 and filled > 0:
        assert drawn.startswith("█"), "what is there shows"
