"""The archives of the import's benchmark are read as they are meant."""

from __future__ import annotations

from pathlib import Path

from benchmarks.chat_import import conversations, measure, write_archive


def test_an_archive_has_the_messages_that_it_says(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    assert write_archive(archive, 3000) > archive.stat().st_size
    found = measure(archive, tmp_path / "imports")
    assert (found.messages, found.conversations) == (3000, len(list(conversations(3000))))
    assert found.cpu > 0 and 10 < found.peak < 500


def test_memory_of_who_starts_it_is_not_its_own(tmp_path: Path) -> None:
    mine = bytearray(b"x" * (600 << 20))
    archive = tmp_path / "a.zip"
    write_archive(archive, 300)
    assert measure(archive, tmp_path / "imports").peak < 500 < len(mine) >> 20
