"""What this machine has, for plans that do not say it."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def memory_mb() -> int:
    """Memory of this machine, MiB, or of the container that this runs in."""
    total = psutil.virtual_memory().total
    return min(total, _cgroup("memory.max") or total) // 2**20


def free_memory_mb() -> int:
    """Of which this much can be had, MiB."""
    free = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free // 2**20


def _cgroup(name: str) -> int | None:
    """A figure of this process's control group, or None where there is none or it is unlimited."""
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):
        return None
