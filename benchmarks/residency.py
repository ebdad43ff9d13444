"""How often variants are reloaded, and how long requests wait, under our policy and under the usual ones.

One trace (Zipf: the first variant is asked most), played through a simulation whose load, unload and service
times were measured on this machine a moment before. Clients wait for their answer before they ask again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from benchmarks.live_residency import play, report
from benchmarks.load import median, percentile
from benchmarks.machine import console, show
from configs.catalog import load_catalog
from configs.home import home
from configs.planner import Plan, lay_out
from configs.profile import load_profile
from deployments.contract import ChatRequest
from deployments.llamacpp.chat import LlamaCppChat
from deployments.llamacpp.deployment import chat_options
from deployments.residency.machine import Footprint, Policy, Residency, State

ONE_OF_THREE = Path(__file__).parent.parent / "tests" / "profiles" / "one-of-three.yaml"
REQUESTS = 300
CLIENTS = 8
SEEDS = 10
FIXED_TTL_SECONDS = 60.0
TICK = 0.25


@dataclass(frozen=True)
class Times:
    """Seconds: to load, to unload, and to answer one request of several at once."""

    load: float
    unload: float
    service: float


class LeastRecentlyUsed(Residency):
    """What most caches do: room is made at once, by whoever was asked for longest ago."""

    def __init__(self, budget_mb: int, footprints: Mapping[str, Footprint]) -> None:
        super().__init__(budget_mb, footprints, Policy(slice_seconds=0, patience_seconds=0))

    def worth(self, name: str, now: float) -> float:
        return self.last_use(name)


class FixedTtl(LeastRecentlyUsed):
    """What llama-swap and Ollama do: the same, and everyone goes a fixed time after the last use."""

    def __init__(self, budget_mb: int, footprints: Mapping[str, Footprint]) -> None:
        super().__init__(
            budget_mb,
            {
                name: Footprint(fp.awake_mb, fp.asleep_mb, fp.load_seconds, idle_ttl=FIXED_TTL_SECONDS)
                for name, fp in footprints.items()
            },
        )


POLICIES: dict[str, Callable[[int, Mapping[str, Footprint]], Residency]] = {
    "GroupQwen": Residency,
    "least recently used": LeastRecentlyUsed,
    f"fixed TTL of {FIXED_TTL_SECONDS:.0f} s": FixedTtl,
}


@dataclass
class Outcome:
    """`waits`: seconds from each request to the start of its answer."""

    loads: int = 0
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0


def zipf(names: list[str], seed: int) -> list[str]:
    """The trace: variant n is asked 1/n as often as the first."""
    weights = [1 / n for n in range(1, len(names) + 1)]
    return random.Random(seed).choices(names, weights, k=REQUESTS)


class Simulation:
    """One node, its variants' gates, and clients that take the next request when theirs is answered."""

    def __init__(self, node: Residency, times: Mapping[str, Times]) -> None:
        self._node, self._times = node, times
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._waiting: dict[str, deque[float]] = {name: deque() for name in times}
        self._running: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._loading: str | None = None
        self._outcome = Outcome()

    def play(self, trace: Iterable[str], clients: int) -> Outcome:
        """Run to the last answer."""
        requests = iter(trace)
        for _ in range(clients):
            self._ask(requests)
        self._later(TICK, lambda: self._tick(requests))
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
            self._decide()
        self._outcome.seconds = self._now
        return self._outcome

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), event))

    def _tick(self, requests: Iterator[str]) -> None:
        if any(self._waiting.values()) or any(self._running.values()):
            self._later(TICK, lambda: self._tick(requests))

    def _ask(self, requests: Iterator[str]) -> None:
        name = next(requests, None)
        if name is None:
            return
        self._requests = requests
        self._node.used(name, self._now)
        self._waiting[name].append(self._now)
        if self._node.state(name) is State.AWAKE:
            self._serve(name)
        else:
            self._node.wanted(name, self._now)

    def _serve(self, name: str) -> None:
        queue = self._waiting[name]
        # As through the gate: all who wait go in together, and are answered in one batch.
        while queue and self._node.state(name) is State.AWAKE:
            self._outcome.waits.append(self._now - queue.popleft())
            self._running[name] += 1
            self._later(self._times[name].service, lambda: self._answered(name))
        self._node.busy(name, self._running[name])

    def _answered(self, name: str) -> None:
        self._running[name] -= 1
        self._node.busy(name, self._running[name])
        self._ask(self._requests)
        self._serve(name)

    def _decide(self) -> None:
        swap = self._node.next_swap(self._now) or self._node.swap
        if swap is None:
            return
        for name in swap.leaving:
            if self._node.state(name) is State.DRAINING and not self._running[name] and name not in self._leaving:
                self._leaving.add(name)
                self._later(self._times[name].unload, lambda name=name: self._gone(name))  # type: ignore[misc]
        coming = swap.coming
        if coming is not None and self._node.state(coming) is State.LOADING and self._loading is None:
            self._loading = coming
            self._outcome.loads += 1
            self._later(self._times[coming].load, lambda: self._came(coming))

    def _gone(self, name: str) -> None:
        self._leaving.discard(name)
        self._node.gone(name, self._now)
        if self._waiting[name]:
            self._node.wanted(name, self._now)

    def _came(self, name: str) -> None:
        self._loading = None
        self._node.came(name, self._now)
        self._serve(name)


def measured(plan: Plan) -> dict[str, Times]:
    """Load, ask and unload each variant of the plan for real, one after the other, and time it."""
    catalog, here = load_catalog(), home()
    times = {}
    for row in track(plan.rows, "measuring loads", console=console):
        spec, served = catalog.variant(row.variant), plan.profile.variants[row.variant]
        path = here.model_file(row.variant, spec.source)
        rounds = [asyncio.run(_one_round(path, row.variant, spec, served)) for _ in range(3)]
        times[row.variant] = Times(
            *(median([getattr(r, f) for r in rounds]) for f in ("load", "unload", "service"))
        )
    return times


async def _one_round(path: Path, name: str, spec: object, served: object) -> Times:
    started = time.perf_counter()
    chat = LlamaCppChat(path, chat_options(name, spec, served))  # type: ignore[arg-type]
    loaded = time.perf_counter()
    request = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 16}
    )
    async for _ in chat.chat(request, "measured"):
        pass
    answered = time.perf_counter()
    chat.close()
    return Times(loaded - started, time.perf_counter() - answered, answered - loaded)


def estimated(plan: Plan) -> dict[str, Times]:
    """For a card that is not here: weights come at 2 GB/s from the disk's cache, an answer takes 3 s. Guesses."""
    return {row.variant: Times(row.weights_mb / 2000, 0.3, 3.0) for row in plan.rows if not row.resident}


def compare(plan: Plan, times: Mapping[str, Times], title: str) -> None:
    """All policies on the same traces; medians over the seeds, and the worst seed's loads."""
    swapped = [row for row in plan.rows if not row.resident]
    footprints = {row.variant: Footprint(row.total_mb, load_seconds=times[row.variant].load) for row in swapped}
    # The smallest is asked most, as a router would have it.
    names = sorted(footprints, key=lambda name: footprints[name].awake_mb)
    rows = []
    for policy, make in POLICIES.items():
        outcomes = [
            Simulation(make(plan.swap_mb, footprints), times).play(zipf(names, seed), CLIENTS)
            for seed in range(SEEDS)
        ]
        assert all(len(outcome.waits) == REQUESTS for outcome in outcomes)
        rows.append(
            [
                policy,
                f"{median([float(outcome.loads) for outcome in outcomes]):.0f}",
                f"{max(outcome.loads for outcome in outcomes)}",
                f"{median([median(outcome.waits) for outcome in outcomes]):.2f}",
                f"{median([percentile(outcome.waits, 0.95) for outcome in outcomes]):.2f}",
                f"{median([outcome.seconds for outcome in outcomes]):.0f}",
            ]
        )
    show(title, ["policy", "loads", "worst seed", "wait p50, s", "wait p95, s", "whole trace, s"], rows)


def main(live: bool) -> None:
    """Measure and print."""
    catalog = load_catalog()
    small = lay_out(load_profile(str(ONE_OF_THREE), catalog), catalog, 1)
    times = measured(small)
    show(
        "Measured on this machine",
        ["variant", "load, s", "unload, s", "an answer, s"],
        [[name, f"{t.load:.2f}", f"{t.unload:.2f}", f"{t.service:.2f}"] for name, t in times.items()],
    )
    compare(small, times, f"{REQUESTS} requests, {CLIENTS} clients, {SEEDS} traces: one of three at a time")
    card = lay_out(load_profile("rtx5090", catalog).on(None), catalog, 1)
    compare(card, estimated(card), "The same on the plan of rtx5090, with guessed times")
    if live:
        names = sorted(small.profile.variants, key=lambda name: catalog.variant(name).memory_mb)
        report(play(str(ONE_OF_THREE), zipf(names, 0), CLIENTS), small.budget_mb)
