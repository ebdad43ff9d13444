from __future__ import annotations

from groupqwen.generated import files


def test_generated_files_are_current() -> None:
    stale = [path.name for path, text in files().items() if not path.is_file() or path.read_text() != text]
    assert stale == [], "run `python scripts/generate.py`"
