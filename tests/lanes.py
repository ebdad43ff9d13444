"""Every test, with types, in lanes that run at the same time: `bash scripts/test.sh` calls this.

Most tests of the real stack wait for something, so two stacks share the machine, and what computes fills the gaps:
at a lower priority, so that nobody waits for it. Coverage is measured in the first stack and by what computes, and
reported over both: tracing makes all Python slow, and the second stack runs little that they do not.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from psutil import virtual_memory

from configs.home import Home

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".coverage-lanes"
PYTEST = ("-m", "pytest", "--durations=25", "--durations-min=5")
MEASURED = (*PYTEST, "--cov", "--cov-report=", "--cov-fail-under=0")
INTEGRATION = "tests/integration"
SECOND_STACK = (
    "observability",
    "readme",
    "streams",
    "top",
    "rollouts",
    "nodes",
    "vllm",
    "residency",
    "finetuning",
    "finetuning_jobs",
    "slow_clients",
    "stopping",
)
"""Modules of tests/integration that the second stack runs: about half of the time, with all that need another
profile. Every other module is the first one's."""
TWO_STACKS_MB = 14_000
"""Memory of a machine that holds both; on a smaller one the first stack has all of the modules."""
PORTS_APART = 200
"""The second stack's ports lie so much higher."""
TOLD_AGAIN = re.compile(r"(FAILED|ERROR|SKIPPED) |=+ .* in [\d.]+s")
"""Lines of pytest that are shown once more at the end."""
COUNTED = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


@dataclass
class Lane:
    """Commands of Python, one after another until one fails. `nice`: how far behind the others it stands."""

    name: str
    commands: list[tuple[str, ...]]
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    failed: tuple[str, ...] | None = None
    seconds: float = 0.0
    told: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    stopped: bool = False

    def run(self) -> None:
        """Runs to its end, saying what is said there, each line with this lane's name."""
        began = time.monotonic()
        data = DATA / self.name
        data.mkdir(parents=True)
        environment = {
            **os.environ,
            **self.environment,
            "COVERAGE_FILE": str(data / ".coverage"),
            "PYTHONUNBUFFERED": "1",
        }
        for command in self.commands:
            if self.stopped:
                break
            self.process = subprocess.Popen(
                ["nice", "-n", str(self.nice), sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            assert self.process.stdout is not None
            for line in self.process.stdout:
                print(f"{self.name:<6}│ {line}", end="", flush=True)
                if TOLD_AGAIN.match(line):
                    self.told.append(line.rstrip())
            if self.process.wait():
                self.failed = command
                break
        self.seconds = time.monotonic() - began

    def stop(self, how: signal.Signals) -> None:
        """Tests end what they have started."""
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)


def lanes(home: Path, port_offset: int) -> list[Lane]:
    """`home`: the first stack's; the second one's is beside it, with the same weights."""
    computing = Lane(
        "unit",
        [("-m", "mypy"), (*MEASURED, "-o", "timeout_func_only=false", "tests", f"--ignore={INTEGRATION}")],
        # Numerics on two threads wait for each other where others compute too.
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        nice=10,
    )
    if virtual_memory().total < TWO_STACKS_MB * 2**20:
        return [Lane("first", [(*MEASURED, INTEGRATION)]), computing]
    second = [f"{INTEGRATION}/test_{name}.py" for name in SECOND_STACK]
    there = {
        "GROUPQWEN_TEST_HOME": str(prepare_second(home)),
        "GROUPQWEN_TEST_PORT_OFFSET": str(port_offset + PORTS_APART),
    }
    return [
        Lane("first", [(*MEASURED, INTEGRATION, *(f"--ignore={path}" for path in second))]),
        Lane("second", [(*PYTEST, *second)], there),
        computing,
    ]


def prepare_second(home: Path) -> Path:
    """The second stack's home, in which nothing is fetched that the first one has."""
    other = home.with_name(f"{home.name}-2")
    Home(home).make()
    other.mkdir(exist_ok=True)
    if not (other / "models").exists():
        (other / "models").symlink_to(home / "models")
    redis = home / "redis" / "bin"
    if redis.is_dir() and not (other / "redis" / "bin").exists():
        shutil.copytree(redis, other / "redis" / "bin")
    return other


def report() -> int:
    """Combines what the lanes have measured, and says it; not 0: it is too little."""
    coverage = [sys.executable, "-m", "coverage"]
    files = [str(path) for path in DATA.glob("*/.coverage*") if not path.name.endswith("-journal")]
    combined = subprocess.run([*coverage, "combine", "--quiet", *files], cwd=ROOT, check=False).returncode
    return combined or subprocess.run([*coverage, "report"], cwd=ROOT, check=False).returncode


def total(told: list[str]) -> str:
    """What became of all tests, from each lane's last line."""
    counted: Counter[str] = Counter()
    for line in told:
        if line.startswith("="):
            for count, what in COUNTED.findall(line):
                counted[what.rstrip("s") if what.startswith("error") else what] += int(count)
    return ", ".join(f"{count} {what}" for what, count in counted.items()) or "no tests"


def run_all(running: list[Lane]) -> None:
    """At the same time. Ctrl-C reaches the tests themselves, who stop what they have started: it is waited for; a
    second one is final."""
    threads = [threading.Thread(target=lane.run) for lane in running]
    for thread in threads:
        thread.start()
    for how in (None, signal.SIGTERM, signal.SIGKILL):
        try:
            for thread in threads:
                thread.join()
            return
        except KeyboardInterrupt:
            for lane in running:
                lane.stopped = True
                if how is not None:
                    lane.stop(how)


def main() -> int:
    began = time.monotonic()
    home = Path(os.environ.get("GROUPQWEN_TEST_HOME") or ROOT / ".test-home").absolute()
    shutil.rmtree(DATA, ignore_errors=True)
    running = lanes(home, int(os.environ.get("GROUPQWEN_TEST_PORT_OFFSET", "1000")))

    def interrupted(number: int, frame: object) -> None:
        for lane in running:
            lane.stop(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupted)
    # (A shell that starts this in the background has it ignore Ctrl-C, which all tests of Ctrl-C would inherit.)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_all(running)
    if any(lane.stopped for lane in running):
        return 130
    too_little = report()
    for lane in running:
        print(f"\n{lane.name}: {lane.seconds:.0f} s", *lane.told, sep="\n")
        if lane.failed:
            print(f"failed: python {' '.join(lane.failed)}")
    print(f"\n{total([line for lane in running for line in lane.told])} in {time.monotonic() - began:.0f} s")
    return 1 if too_little or any(lane.failed for lane in running) else 0


if __name__ == "__main__":
    sys.exit(main())
