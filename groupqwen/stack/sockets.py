"""A folder for Unix sockets: private, and with a path short enough for one (107 bytes)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from configs.home import Home
from groupqwen.stack.problem import StartProblem

LONGEST_FOLDER = 80


def socket_folder(home: Home) -> Path:
    """`run` in the home where its path is short; else a folder of its own among the temporary files."""
    if len(str(home.run)) <= LONGEST_FOLDER:
        return home.run
    digest = hashlib.sha256(str(home.root).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"groupqwen-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.lstat()
    if folder.is_symlink() or stat.st_uid != os.getuid() or stat.st_mode & 0o066:
        raise StartProblem(f"{folder} is not this user's own private folder; remove it and run again")
    return folder
