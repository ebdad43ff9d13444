from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pynvml
import pytest

from configs import machine


def test_memory_is_what_the_machine_or_its_container_has(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"memory.max": 1000 * 2**20, "memory.current": 400 * 2**20}
    monkeypatch.setattr(machine, "_cgroup", limits.get)
    assert machine.memory_mb() == 1000
    assert machine.free_memory_mb() == 600
    monkeypatch.setattr(machine, "_cgroup", lambda _: None)
    assert machine.memory_mb() == psutil.virtual_memory().total // 2**20


def test_a_familys_memory_is_that_of_all_its_processes() -> None:
    hungry = "import sys; held = bytearray(80 << 20); print(len(held), flush=True); sys.stdin.read()"
    before = machine.memory_of(psutil.Process())["memory_mb"]
    with subprocess.Popen([sys.executable, "-c", hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert machine.memory_of(psutil.Process())["memory_mb"] >= before + 80


@pytest.mark.skipif(machine.gpu_memory_mb() is not None, reason="there is a card")
def test_without_a_card_nothing_is_said_of_one() -> None:
    assert machine.memory_mb("cuda") == 0
    assert machine.free_gpu_memory_mb() is None
    assert "gpu_memory_mb" not in machine.memory_of(psutil.Process())


class Card:
    """A card that cannot exist here, behind NVML's own names: 24 GiB, of which this process has taken 2."""

    total, free = 24 * 2**30, 10 * 2**30
    pid = os.getpid()
    usedGpuMemory = 2 * 2**30  # noqa: N815


def test_a_card_is_asked_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda _: Card)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda card: card)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda card: [card])
    assert machine.memory_mb("cuda") == machine.gpu_memory_mb() == 24 * 1024
    assert machine.free_gpu_memory_mb() == 10 * 1024
    assert machine.memory_of(psutil.Process())["gpu_memory_mb"] == 2048


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = {True: 16, False: 8}
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: counts[logical])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert machine.cores() == 2, "three threads are one core and a half"
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores() == 2
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    assert machine.cores() == 1


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t: x\n\nflags\t: other\n", {"fpu", "avx2", "fma"}),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("", set()),
    ],
)
def test_what_the_cpu_can_do_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, flags: set[str]
) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.cpu_flags() == frozenset()
    (tmp_path / "cpuinfo").write_text(text)
    assert machine.cpu_flags() == flags
