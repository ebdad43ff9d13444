"""What this machine has, for plans that do not say it."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_mb() -> int:
    """Memory of this machine, MiB, or of the container that this runs in."""
    total = psutil.virtual_memory().total
    try:
        limit = int(CGROUP_LIMIT.read_text())
    except (OSError, ValueError):
        limit = total
    return min(total, limit) // 2**20
