"""A folder for Unix sockets: private, and with a path short enough for one (107 bytes)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from configs.home import Home
from groupqwen.stack.problem import StartProblem

LONGEST_FOLDER = 80


def socket_folder(home: Home) -> Path:
    """`run` in the home where its path is short; else a folder of its own among the temporary files."""
    return home.run if len(str(home.run)) <= LONGEST_FOLDER else short_folder(home)


def short_folder(home: Home) -> Path:
    """A private folder with a path of some twenty characters: Ray adds 57 for HAProxy's socket, which may
    have 97 in all. Raises `StartProblem` where someone else has made it."""
    digest = hashlib.sha256(str(home.root).encode()).hexdigest()[:12]
    folder = Path("/tmp") / f"gq-{os.getuid()}-{digest}"  # noqa: S108
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise StartProblem(f"{folder} is in the way and no folder; remove it and run again") from None
    stat = folder.lstat()
    if folder.is_symlink() or stat.st_uid != os.getuid() or stat.st_mode & 0o066:
        raise StartProblem(f"{folder} is not this user's own private folder; remove it and run again")
    return folder
