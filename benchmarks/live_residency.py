"""The same trace on a group of its own, started for it: what really is loaded, waited for and held in memory."""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import psutil
from rich.progress import Progress, TaskID

from benchmarks.load import Answer, Target, ask, median, percentile
from benchmarks.machine import console, show
from configs.home import Home, home
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.lifecycle import Choices, down, settings_for, up
from groupqwen.stack.processes import marked
from groupqwen.stack.settings import Settings

PORT_OFFSET = 2000
SAMPLES_PER_SECOND = 10
SETTLE_SECONDS = 4.0
"""Metrics come a little after what they count."""

LOADS = re.compile(r'^ray_groupqwen_residency_swaps_total\{.*kind="in".*\} ([0-9.e+]+)$', re.MULTILINE)


@dataclass
class Seen:
    """`peak_mb`: the most that the variants' processes had resident together, MiB."""

    answers: list[Answer]
    peak_mb: int
    loads: int


@contextmanager
def group(profile: str, port_offset: int = PORT_OFFSET) -> Iterator[tuple[Settings, Credentials]]:
    """A group with this profile, on ports and in a home of its own; weights and Redis are those of the usual
    home."""
    with tempfile.TemporaryDirectory(prefix="groupqwen-") as folder:
        own = Home(Path(folder))
        own.make()
        own.models.rmdir()
        own.models.symlink_to(home().models)
        if (binaries := home().redis / "bin").is_dir():
            (own.redis / "bin").symlink_to(binaries)
        choices = Choices(profile=profile, port_offset=port_offset)
        settings = settings_for(own, choices)
        try:
            yield settings, up(settings, choices, console)
        finally:
            down(settings, console)


def play(profile: str, trace: Sequence[str], clients: int) -> Seen:
    """Ask for each variant of the trace, `clients` at a time, and watch."""
    with group(profile) as (settings, credentials):
        target = Target("GroupQwen", settings.endpoint, "", credentials.api_key, {"cache-control": "no-store"})
        with Progress(console=console) as progress, _peak_of(settings, set(trace)) as peak:
            task = progress.add_task("asking", total=len(trace))
            answers = asyncio.run(_ask_all(target, trace, clients, progress, task))
        with console.status("Waiting for the metrics …"):
            threading.Event().wait(SETTLE_SECONDS)
        metrics = httpx.get(f"http://127.0.0.1:{settings.ports.metrics}/metrics", timeout=10).text
        return Seen(answers, peak[0], sum(round(float(count)) for count in LOADS.findall(metrics)))


async def _ask_all(
    target: Target, trace: Sequence[str], clients: int, progress: Progress, task: TaskID
) -> list[Answer]:
    waiting = list(reversed(trace))
    answers: list[Answer] = []
    message = {"role": "user", "content": "Name three colours."}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:

        async def client() -> None:
            while waiting:
                body = {"model": waiting.pop(), "messages": [message], "max_tokens": 16, "temperature": 0}
                answers.append(await ask(session, target, body))
                progress.advance(task)

        await asyncio.gather(*(client() for _ in range(clients)))
    return answers


@contextmanager
def _peak_of(settings: Settings, variants: set[str]) -> Iterator[list[int]]:
    """The most resident memory of the variants' processes, MiB, sampled while this is entered."""
    names = {f"ServeReplica:groupqwen:{variant}" for variant in variants}
    processes = [
        process for process in marked(settings) if any(name in " ".join(process.cmdline()) for name in names)
    ]
    done, peak = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(1 / SAMPLES_PER_SECOND):
            total = 0
            for process in processes:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], total // 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def report(seen: Seen, budget_mb: int) -> None:
    """Print it. What failed is named."""
    firsts = [answer.first for answer in seen.answers if answer.first is not None]
    failed = [answer for answer in seen.answers if not answer.complete]
    show(
        f"{len(seen.answers)} requests to a real group whose budget is {budget_mb} MiB",
        ["answered", "failed", "loads", "first token p50, s", "first token p95, s", "most resident, MiB"],
        [
            [
                f"{len(seen.answers) - len(failed)}",
                f"{len(failed)}",
                f"{seen.loads}",
                f"{median(firsts):.2f}",
                f"{percentile(firsts, 0.95):.2f}",
                f"{seen.peak_mb}",
            ]
        ],
    )
    for error in sorted({f"{answer.status}: {answer.error}" for answer in failed}):
        console.print(f"failed: {error}")
