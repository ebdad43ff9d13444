"""What a worker asks Ray for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.tiny import make_spec
from train.finetune.trainer import resources


def test_in_the_group_s_ray_a_job_takes_no_card_from_the_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, tmp_path, tmp_path, gpu=True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert resources(spec)["GPU"] == 1
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert 0 < resources(spec)["GPU"] < 0.01
    assert "GPU" not in resources(spec.model_copy(update={"gpu": False}))
