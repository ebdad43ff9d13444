from __future__ import annotations

import pytest
import typer

from groupqwen.training.promotion import fraction


@pytest.mark.parametrize(
    ("text", "value"), [("20%", 0.2), ("0.2", 0.2), ("100%", 1), ("0", 0), ("1", 1), ("12.5%", 0.125)]
)
def test_a_share_is_a_number_or_a_percentage(text: str, value: float) -> None:
    assert fraction(text, "--share") == pytest.approx(value)


@pytest.mark.parametrize("text", ["20", "-1%", "101%", "half", "", "%", "nan", "inf"])
def test_what_is_no_share_says_so(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="say 20% or"):
        fraction(text, "--share")
