"""What `groupqwen train` makes of words and of streams. (Against the real API: test_finetuning_jobs.)"""

from __future__ import annotations

import pytest
import typer

from groupqwen.training.jobs import WIDTH, _overrides, _parsed, _sparkline


def test_fields_of_a_recipe_are_json_or_text() -> None:
    assert _overrides(["epochs=1", "quantize=none", 'targets=["q_proj"]']) == {
        "epochs": 1,
        "quantize": "none",
        "targets": ["q_proj"],
    }
    with pytest.raises(typer.BadParameter, match="FIELD=VALUE"):
        _overrides(["epochs"])


def test_server_sent_events_are_taken_apart() -> None:
    lines = [
        ": keep-alive",
        "",
        "id: 7",
        "event: log",
        'data: {"a": 1}',
        "",
        "event: end",
        "data: {}",
        "",
        "data: {",
    ]
    assert list(_parsed(iter(lines))) == [(7, "log", {"a": 1}), (None, "end", {})]


def test_a_curve_is_a_line_of_text() -> None:
    assert _sparkline([2.0, 1.0]) == "2.000 █▁ 1.000"
    assert _sparkline([1.0, 1.0]) == "1.000 ▁▁ 1.000"
    assert len(_sparkline([float(n) for n in range(1000)])) < WIDTH + 30
