"""How a job's process ends."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from configs.training import RUNS_ALREADY
from tests.train.tiny import make_job, make_spec
from train.run import run


def test_who_finds_another_at_work_says_so(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", make_spec(tmp_path, tmp_path, tmp_path / "adapters"))
    with FileLock(folder / ".run.lock"):
        assert run(folder) == RUNS_ALREADY == 4
    assert not (folder / "events.jsonl").exists()
