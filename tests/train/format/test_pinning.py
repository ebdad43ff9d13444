"""A job keeps to the data that it began with."""

from __future__ import annotations

from pathlib import Path

from configs.training import JobSpec
from train.format.pinning import pin


def test_what_is_curated_anew_meanwhile_is_not_learned_from(tmp_path: Path) -> None:
    dataset, folder = tmp_path / "set", tmp_path / "job"
    dataset.mkdir()
    folder.mkdir()
    for name in ("train.jsonl", "canaries.jsonl", "card.json"):
        (dataset / name).write_text("old")
    spec = JobSpec(
        id="ftjob-" + "1" * 24, name="a", base="b", weights=tmp_path, dataset=dataset, adapters=tmp_path
    )
    pinned = pin(spec, folder)
    (dataset / "train.jsonl").write_text("new")
    assert pin(spec, folder) == pin(pinned, folder) == pinned
    assert {path.name: path.read_text() for path in pinned.dataset.iterdir()} == {
        "train.jsonl": "old",
        "canaries.jsonl": "old",
    }
