from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deployments.cache.calibrated import likeness_at, write_likeness
from deployments.cache.likeness import PRIOR, SHIPPED, Likeness

OTHER = Likeness(PRIOR + 0.5)


def test_what_was_learned_is_read_again_by_the_same_embedder(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    assert likeness_at(path, "abc") is SHIPPED
    write_likeness(path, OTHER, "abc", 300)
    assert np.allclose(likeness_at(path, "abc").weights, OTHER.weights)
    assert likeness_at(path, "def") is SHIPPED, "distances of two embedders are not one scale"


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"embedder": "abc"}', "nan"])
def test_one_that_cannot_be_read_is_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cache.json"
    write_likeness(path, OTHER, "abc", 300)
    if damage == "nan":
        said = json.loads(path.read_text())
        said["weights"]["bias"] = float("nan")
        damage = json.dumps(said)
    path.write_text(damage)
    assert likeness_at(path, "abc") is SHIPPED
