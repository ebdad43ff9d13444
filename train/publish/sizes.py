"""How large a file or a folder is."""

from __future__ import annotations

from pathlib import Path


def bytes_of(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
