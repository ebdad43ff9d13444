"""Labelled pairs from a file, and the command's word about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cache_pairs import TRAPS, read_pairs, read_traps
from groupqwen.outcomes import OutcomesError


def test_pairs_are_read_with_their_set(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,same,set\nWhat is 1?,What is one?,1,own\nWhat is 1?,What is 2?,0,\n")
    assert read_pairs(path) == [
        ("What is 1?", "What is one?", True, "own"),
        ("What is 1?", "What is 2?", False, "all"),
    ]


@pytest.mark.parametrize("row", ["What?,,1", "What?,Why?,maybe", ",Why?,0"])
def test_a_wrong_pair_is_told_with_its_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"a,b,same\nA?,B?,0\n{row}\n")
    with pytest.raises(OutcomesError, match="line 3"):
        read_pairs(path)


def test_no_pairs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("")
    with pytest.raises(OutcomesError, match="no pairs"):
        read_pairs(path)


def test_our_traps_are_five_hundred_pairs_half_of_them_paraphrases() -> None:
    pairs = read_traps(TRAPS)
    assert len(pairs) == len({(asked, kept) for asked, kept, _, _ in pairs}) >= 500
    assert sum(same for _, _, same, _ in pairs) == len(pairs) / 2
