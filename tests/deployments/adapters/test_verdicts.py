from __future__ import annotations

import pytest

from deployments.adapters.verdicts import Side, better, sides_of


def side(up: int, down: int) -> Side:
    return Side(up + down, 0, up, down)


def test_what_is_believed_of_a_side() -> None:
    nothing = side(0, 0).report()
    assert (nothing["good"], nothing["low"], nothing["high"]) == (0.5, 0.025, 0.975)
    told = side(90, 10).report()
    assert told["good"] == pytest.approx(91 / 102, abs=1e-4)
    # (Of Beta(91, 11).)
    assert (told["low"], told["high"]) == (pytest.approx(0.826, abs=0.002), pytest.approx(0.944, abs=0.002))


def test_which_side_is_better() -> None:
    assert better(side(0, 0), side(0, 0)) == pytest.approx(0.5, abs=1e-3)
    assert better(side(90, 10), side(50, 50)) > 0.999
    assert better(side(3, 0), side(0, 3)) == pytest.approx(1 - better(side(0, 3), side(3, 0)), abs=1e-3)
    # (Beta(2, 1) over Beta(1, 1): two thirds.)
    assert better(side(1, 0), side(0, 0)) == pytest.approx(2 / 3, abs=1e-3)


def test_a_side_of_which_nothing_was_asked() -> None:
    rows = {"base": {"requests": 3, "failed": 1, "up": 2, "down": 0}}
    assert sides_of(rows) == {"adapter": Side(0, 0, 0, 0), "base": Side(3, 1, 2, 0)}
