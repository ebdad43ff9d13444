"""Whether processes grow: what each has resident and open, second by second, and a robust slope."""

from __future__ import annotations

import csv
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from scipy.stats import theilslopes

from groupqwen.stack.processes import marked
from groupqwen.stack.settings import Settings

EVERY_SECONDS = 1.0
LOOKED_FOR_EVERY = 15
"""Samples after which new processes are looked for."""

WARM_SECONDS = 60.0
ALLOWED_MIB, ALLOWED_SHARE = 5.0, 0.02
"""What is no growth yet, altogether: the larger of these MiB and this share of what it had."""

NEAR = 5
"""Samples that a figure of one moment is the median of."""

REPLICA = re.compile(r"ServeReplica:\w+:([\w.-]+?)(?:\.[a-z_]+)?(?:\(\))?(?:\s|$)")
NAMES = {
    "redis-server": "Redis",
    "postgres": "PostgreSQL",
    "raylet": "raylet",
    "gcs_server": "GCS",
    "haproxy": "HAProxy",
    "ServeController": "ServeController",
    "ProxyActor": "Serve's proxy",
    "dashboard_agent": "dashboard agent",
    "DashboardAgent": "dashboard agent",
    "RuntimeEnvAgent": "runtime env agent",
    "runtime_env": "runtime env agent",
    "log_monitor": "log monitor",
    "dashboard": "dashboard",
}
"""What stands in a command line → whose it is; the first that fits counts."""


@dataclass(frozen=True)
class Growth:
    """MiB at the end of the first minute and at the end of all, and between them the slope (Theil and Sen's median
    of all slopes; MiB a minute), of the whole time and of its second half."""

    first: float
    last: float
    slope: float
    late_slope: float
    minutes: float

    @property
    def total(self) -> float:
        """By the slope, MiB."""
        return self.slope * self.minutes

    @property
    def grown(self) -> bool:
        """Whether that is more than chance and a little."""
        return self.total > max(ALLOWED_MIB, ALLOWED_SHARE * self.first)


def growth(seconds: Sequence[float], mib: Sequence[float], warm: float = WARM_SECONDS) -> Growth | None:
    """Of one process, after its first `warm` seconds; None where there is nothing after them."""
    after = [place for place, second in enumerate(seconds) if second >= warm]
    if len(after) < 2 * NEAR:
        return None
    minutes = [seconds[place] / 60 for place in after]
    values = [mib[place] for place in after]
    half = len(after) // 2
    return Growth(
        first=median(values[:NEAR]),
        last=median(values[-NEAR:]),
        slope=float(theilslopes(values, minutes).slope),
        late_slope=float(theilslopes(values[half:], minutes[half:]).slope),
        minutes=minutes[-1] - minutes[0],
    )


def whose(command: str) -> str | None:
    """What a process is called here, by its command line; None: nobody's that is looked at."""
    replica = REPLICA.search(command)
    if replica is not None:
        return replica[1]
    return next((name for part, name in NAMES.items() if part in command), None)


@dataclass
class Series:
    """Of one process, or of several of one name together. `pids`: all that it ever was."""

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)


@dataclass
class Watched:
    """By name. `busy`: the machine's cores, percent."""

    series: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    busy: list[float] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As CSV."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["process", "second", "resident_mib", "open_files"])
            for name, one in sorted(self.series.items()):
                for at, mib, files in zip(one.seconds, one.mib, one.files, strict=True):
                    writer.writerow([name, f"{at:.1f}", f"{mib:.2f}", files])


@contextmanager
def watching(settings: Settings) -> Iterator[Watched]:
    """Sample everything that an installation has started, while this is entered."""
    watched, done = Watched(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(settings, watched, done), daemon=True)
    watcher.start()
    try:
        yield watched
    finally:
        done.set()
        watcher.join()


def _watch(settings: Settings, watched: Watched, done: threading.Event) -> None:
    began, sample = time.monotonic(), 0
    named: dict[psutil.Process, str] = {}
    psutil.cpu_percent()
    while not done.wait(max(0.0, began + sample * EVERY_SECONDS - time.monotonic())):
        if sample % LOOKED_FOR_EVERY == 0:
            named = dict(_named(settings))
        if sample:
            watched.busy.append(psutil.cpu_percent())
        _sample(named, time.monotonic() - began, watched)
        sample += 1


def _named(settings: Settings) -> Iterator[tuple[psutil.Process, str]]:
    for process in marked(settings):
        try:
            name = whose(" ".join(process.cmdline()) or process.name())
        except psutil.Error:
            continue
        if name is not None:
            yield process, name


def _sample(named: dict[psutil.Process, str], at: float, watched: Watched) -> None:
    """What PostgreSQL's processes share counts once for each, so of them only their own memory counts."""
    mib: dict[str, float] = defaultdict(float)
    files: dict[str, int] = defaultdict(int)
    for process, name in named.items():
        try:
            memory, opened = process.memory_info(), process.num_fds()
        except psutil.Error:
            continue
        own = memory.rss - memory.shared if name == "PostgreSQL" else memory.rss
        mib[name] += own / 2**20
        files[name] += opened
        watched.series[name].pids.add(process.pid)
    for name, value in mib.items():
        one = watched.series[name]
        one.seconds.append(at)
        one.mib.append(value)
        one.files.append(files[name])
