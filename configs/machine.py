"""What this machine has, for plans that do not say it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pynvml

CGROUP = Path("/sys/fs/cgroup")
CPU_INFO = Path("/proc/cpuinfo")


def memory_mb(accelerator: str = "cpu") -> int:
    """The memory that models live in, MiB: the first card's, else this machine's, or that of the container that
    this runs in. 0: no card is to be seen."""
    if accelerator == "cuda":
        return gpu_memory_mb() or 0
    total = psutil.virtual_memory().total
    return min(total, _cgroup("memory.max") or total) // 2**20


def free_memory_mb() -> int:
    """Of which this much can be had, MiB."""
    free = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free // 2**20


def cores() -> int:
    """Physical CPU cores that this process may use, at least 1."""
    logical = psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    physical = psutil.cpu_count(logical=False) or logical
    # Two threads of one core share what computes.
    usable = min(physical, math.ceil(allowed * physical / logical))
    quota = _cpu_quota()
    return max(1, usable if quota is None else min(usable, math.ceil(quota)))


def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux names it (`avx2`, `asimddp`, …); empty where that cannot be read."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(next((flags.split() for key, _, flags in named if key.strip() in ("flags", "Features")), ()))


def free_gpu_memory_mb() -> int | None:
    """Free memory of the first card, MiB; None where there is none that NVML knows."""
    with _card() as card:
        return None if card is None else int(pynvml.nvmlDeviceGetMemoryInfo(card).free) // 2**20


def gpu_memory_mb() -> int | None:
    """Memory of the first card, MiB; None where there is none that NVML knows."""
    with _card() as card:
        return None if card is None else int(pynvml.nvmlDeviceGetMemoryInfo(card).total) // 2**20


def memory_of(process: psutil.Process) -> dict[str, int]:
    """What a process and all that it has started take: `memory_mb` of the machine's memory, and `gpu_memory_mb`
    where they are on a card, MiB. Where the system tells (Linux), a page that several processes share is counted
    by its share, so that the libraries that all of vLLM's processes map count once."""
    family = [process, *process.children(recursive=True)]
    taken = 0
    for one in family:
        with suppress(psutil.NoSuchProcess):
            taken += _memory_of_one(one)
    measured = {"memory_mb": taken // 2**20}
    with _card() as card:
        if card is not None:
            pids = {one.pid for one in family}
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
            on_card = sum(one.usedGpuMemory or 0 for one in running if one.pid in pids)
            measured["gpu_memory_mb"] = int(on_card) // 2**20
    return measured


def _memory_of_one(process: psutil.Process) -> int:
    """Bytes: proportional where the system tells, else resident."""
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)


@contextmanager
def _card() -> Iterator[Any]:
    """NVML's handle of the first card that this process may see, or None."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml.nvmlDeviceGetHandleByIndex(0)
    finally:
        pynvml.nvmlShutdown()


def _cgroup(name: str) -> int | None:
    """A figure of this process's control group, or None where there is none or it is unlimited."""
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):
        return None


def _cpu_quota() -> float | None:
    """CPUs that this process's control group may use, or None where it is not limited."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None
