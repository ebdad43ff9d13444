from __future__ import annotations

import os
import subprocess
import sys

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
