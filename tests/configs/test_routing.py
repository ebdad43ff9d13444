from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.catalog import load_catalog
from configs.document import ROOT, ConfigError
from configs.routing import LEVELS, Routing, load_routing

FIELDS: dict[str, Any] = yaml.safe_load((ROOT / "routing.yaml").read_text())


def refused(tmp_path: Path, field: str, value: Any) -> str:
    """The error of the real rules with one field (a dotted path) changed."""
    changed = copy.deepcopy(FIELDS)
    *path, last = field.split(".")
    inner = changed
    for part in path:
        inner = inner[part]
    inner[last] = value
    file = tmp_path / "routing.yaml"
    file.write_text(yaml.safe_dump(changed))
    with pytest.raises(ConfigError) as raised:
        load_routing(file)
    return str(raised.value)


def test_the_real_rules_load_and_survive_the_way_to_a_replica() -> None:
    routing = load_routing()
    assert Routing.model_validate(routing.model_dump(mode="json")) == routing
    assert set(routing.device_ceiling) == {"server", "macbook", "mobile"}
    assert all(word == word.lower() for word in routing.hard_keywords)
    for pattern in (*routing.code_patterns, *routing.translation_patterns):
        re.compile(pattern)
    assert set(routing.aliases.values()) <= {"auto", *LEVELS, *load_catalog().variants}


def test_weights_must_add_up_to_one(tmp_path: Path) -> None:
    told = refused(tmp_path, "complexity.length.weight", 0.4)
    assert "complexity" in told
    assert "add up to 1, not 1.1" in told


@pytest.mark.parametrize(("field", "value"), [("simple", 0.6), ("moderate", 0.9), ("complex", 0.4)])
def test_thresholds_must_ascend(tmp_path: Path, field: str, value: float) -> None:
    assert "must ascend" in refused(tmp_path, f"thresholds.{field}", value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thresholds.simple", -0.1),
        ("complexity.steps.saturates_at", 0),
        ("device_ceiling.mobile", "hard"),
        ("cache.ttl_seconds", 0),
        ("cache.distance", 1.5),
        ("speed", "high"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(tmp_path: Path, field: str, value: Any) -> None:
    assert f": {field}: " in refused(tmp_path, field, value)


@pytest.mark.parametrize("field", ["code_patterns", "translation_patterns"])
def test_a_pattern_that_is_no_regular_expression_is_refused_when_read(tmp_path: Path, field: str) -> None:
    assert field in refused(tmp_path, field, ["fine", "(unclosed"])
