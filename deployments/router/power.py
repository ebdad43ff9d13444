"""What answers cost in electricity: the energy that each machine draws while it answers, shared by who it answers.

While n requests run on one machine, each is charged the n-th part; so all shares add up to what the machine has
drawn, however requests overlap. The energy is measured where the system counts it (an NVIDIA card, an Intel or AMD
processor), else it follows from the watts that the profile declares; where neither is known, nothing is said.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.profile import Profile

JOULES_PER_WH = 3600.0
MOST_REMEMBERED = 4096
RAPL = Path("/sys/class/powercap")

Counter = Callable[[], float]
"""Joules, counted from any moment on."""


class Meter:
    """Of one Router. Belongs to one event loop."""

    def __init__(self, counters: Mapping[str, Counter]) -> None:
        """`counters`: by variant; those that share one run on one machine."""
        self._counters = counters
        self._running: dict[Counter, int] = {}
        self._read: dict[Counter, float] = {}
        self._each: dict[Counter, float] = {}
        """Joules that one who had run from the beginning on would have been charged."""
        self._charged: dict[str, float] = {}

    @contextmanager
    def running(self, variant: str, request_id: str) -> Iterator[None]:
        """While a variant answers a request."""
        counter = self._counters.get(variant)
        if counter is None:
            yield
            return
        before = self._advance(counter, +1)
        try:
            yield
        finally:
            share = self._advance(counter, -1) - before
            self._charged[request_id] = self._charged.get(request_id, 0.0) + share
            if len(self._charged) > MOST_REMEMBERED:
                # (Of one whose row was written before its last variant let go.)
                del self._charged[next(iter(self._charged))]

    def take(self, request_id: str) -> float | None:
        """Watt-hours of a request, which are forgotten here; None where nothing was measured."""
        joules = self._charged.pop(request_id, None)
        return None if joules is None else joules / JOULES_PER_WH

    def _advance(self, counter: Counter, by: int) -> float:
        running, now = self._running.get(counter, 0), counter()
        if running:
            drawn = max(0.0, now - self._read[counter])
            self._each[counter] = self._each.get(counter, 0.0) + drawn / running
        self._running[counter], self._read[counter] = running + by, now
        return self._each.get(counter, 0.0)


def counters_of(profile: Profile, remote: frozenset[str]) -> dict[str, Counter]:
    """What to count each variant's energy with; those that run elsewhere (`remote`) cost none here."""
    of_machine: dict[str | None, Counter | None] = {None: declared(profile.machine.watts) or measured()}
    of_machine |= {device: declared(node.machine.watts) for device, node in profile.nodes.items()}
    found = {name: of_machine[served.node] for name, served in profile.variants.items() if name not in remote}
    return {name: counter for name, counter in found.items() if counter is not None}


def declared(watts: float | None) -> Counter | None:
    """So many watts, all the time."""
    if watts is None:
        return None
    steady = float(watts)
    return lambda: steady * time.monotonic()


def measured(rapl: Path = RAPL) -> Counter | None:
    """What this machine counts: its processor's packages, and its cards. None where it counts neither."""
    found = [counter for counter in (processor(rapl), cards()) if counter is not None]
    return (lambda: sum(counter() for counter in found)) if found else None


def processor(folder: Path) -> Counter | None:
    """The packages' RAPL counters (microjoules, as Linux shows them; most systems show them to root only)."""
    packages = [_Package(path) for path in sorted(folder.glob("intel-rapl:?")) if _readable(path / "energy_uj")]
    return (lambda: sum(package.joules() for package in packages)) if packages else None


class _Package:
    def __init__(self, path: Path) -> None:
        self._file = path / "energy_uj"
        self._range = int((path / "max_energy_range_uj").read_text())
        self._last, self._turns = 0, 0

    def joules(self) -> float:
        now = int(self._file.read_text())
        if now < self._last:
            self._turns += 1
        self._last = now
        return (self._turns * self._range + now) / 1e6


def cards(library: str = "pynvml") -> Counter | None:
    """All NVIDIA cards' counters (millijoules), where NVIDIA's library is installed and finds any."""
    try:
        nvml: Any = importlib.import_module(library)
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # (It is not installed, finds no driver, or a card of before Volta.)
        return None
    if not handles:
        return None
    return lambda: sum(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3


def _readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True
