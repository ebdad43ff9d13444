"""Files that uploads have left."""

from __future__ import annotations

import os
from pathlib import Path

from configs.home import Home
from deployments.finetuning.job import LEFT_SECONDS, file_path, sweep_files


def test_what_nobody_counts_goes_after_a_day(tmp_path: Path) -> None:
    home = Home(tmp_path)
    known, lost, fresh = (f"file-{number:032x}" for number in range(3))
    paths = [file_path(home, one) for one in (known, lost, fresh)]
    paths += [paths[1].with_suffix(".new"), paths[0].parent / "notes.txt"]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_text("{}")
        os.utime(path, (1000.0, 1000.0))
    os.utime(paths[2], (1001.0, 1001.0))
    gone = sweep_files(home, {known, fresh + "x"}, 1000.5 + LEFT_SECONDS)
    assert sorted(gone) == [f"{lost}.jsonl", f"{lost}.new"]
    assert [path.exists() for path in paths] == [True, False, True, False, True]
