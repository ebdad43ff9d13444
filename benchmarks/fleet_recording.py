"""Records the service times that the simulation of a fleet is fed with, from a GroupQwen that runs here.

Times are CPU times: of a variant's process, which computes in threads of its own while it is asked through the
endpoint, and of the processes of each shared part, less what they take when nobody asks. So they differ little
between a busy machine and a calm one; the fastest of several rounds is kept. Starts and stops nothing.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from rich.progress import Progress

from benchmarks.load import Answer, Target, ask, median
from benchmarks.machine import console, machine
from benchmarks.service_times import PARTS, TOUCHED, PartTimes, ServiceTimes, VariantTimes
from configs.home import home
from configs.profile import ServedVariant
from groupqwen.stack.credentials import load_credentials
from groupqwen.stack.lifecycle import remembered, settings_for
from groupqwen.stack.processes import marked
from groupqwen.stack.settings import Settings

SIZES = (32, 128, 512, 1024)
"""Words of a prompt; the tokens are what the endpoint says."""

AT_ONCE = (1, 2, 4, 8)
TOGETHER_WORDS = 192
ANSWER_TOKENS = 48
REPLICAS = (1, 10, 100, 1000)
CLIENTS = 4
IDLE_SECONDS = 10.0
DRAIN_SECONDS = 3.0
"""The Ledger copies rows a little later."""

NO_STORE = {"cache-control": "no-store"}
LEVEL = "trivial"
"""Asked by level and not by name, so that the Classifier is asked too."""

WORDS = tuple(
    word
    for line in (
        "time year people way day man thing woman life child world school state family student group country",
        "problem hand part place case week company system program question work night point home water room",
        "mother area money story fact month lot right study book eye job word business issue side kind head house",
        "service friend father power hour game line end member law car city community name president team minute",
        "idea body information back parent face others level office door health person art war history party",
        "result change morning reason research girl guy moment air teacher force education apple river stone",
        "bridge garden silver engine window summer",
    )
    for word in line.split()
)


def words(count: int, rng: random.Random) -> str:
    """A text that was not asked before."""
    return " ".join(rng.choices(WORDS, k=count))


# -- clocks ------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads; 0 if it is gone. psutil says it in steps of 10 ms, this clock
    (its number as clock_getcpuclockid(3) makes it, on Linux) in nanoseconds."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def process_name(command: str) -> str:
    """Of a replica: its deployment. Else the program's name."""
    program = command.split(" ")[0].rstrip(":")
    return program.rsplit(":", 1)[-1] if program.startswith("ray::ServeReplica") else Path(program).name


def part_of(command: str) -> str | None:
    """Which shared part a process belongs to, by its command line."""
    name = process_name(command)
    named = {"postgres": "Ledger", "redis-server": "Redis", "haproxy": "HAProxy"}.get(name, name)
    return named if named in PARTS else None


class Others:
    """Which share of the machine has been taken by what is not ours, since this was made."""

    def __init__(self, settings: Settings) -> None:
        ours = [os.getpid(), *(process.pid for process in marked(settings))]
        self._ours = {pid: cpu_seconds(pid) for pid in ours}
        self._started, self._busy = time.perf_counter(), _busy_seconds()

    @property
    def share(self) -> float:
        used = sum(max(0.0, cpu_seconds(pid) - before) for pid, before in self._ours.items())
        seconds = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        return max(0.0, _busy_seconds() - self._busy - used) / seconds


def _busy_seconds() -> float:
    """CPU seconds of the machine that were not idle, those included that its host gave to others."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


# -- variants ----------------------------------------------------------------------------------------


class Asked:
    """One variant, asked through the endpoint, and the clock of its process."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, settings: Settings) -> None:
        self._session, self._target = session, target
        served = settings.profile.variants[target.model]
        if served.gpu_layers:
            raise SystemExit(f"{target.model} computes on a GPU, of which CPU time says nothing")
        self._threads = served.threads or 1
        self._rng = random.Random(time.time_ns())
        self._pids = [
            process.pid
            for process in marked(settings)
            if process_name(" ".join(process.cmdline())) == target.model
        ]
        if not self._pids:
            raise SystemExit(f"there is no process of {target.model} on this machine")

    async def prompts(self, size: int) -> tuple[tuple[int, float], tuple[int, float]]:
        """(tokens, seconds to the first) of a prompt that is new, and of the same with one line more."""
        messages = [{"role": "user", "content": words(size, self._rng)}]
        new, length, _ = await self._timed(messages)
        longer = [*messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
        again, all_of_it, kept = await self._timed(longer)
        if kept < size / 2:
            raise RuntimeError(f"{self._target.model}: only {kept} of {all_of_it} tokens were reused")
        return (length, new), (all_of_it, again)

    async def together(self, at_once: int) -> float:
        """Seconds until each of so many new prompts has its first token."""
        asked = [[{"role": "user", "content": words(TOGETHER_WORDS, self._rng)}] for _ in range(at_once)]
        started = self._clock()
        await asyncio.gather(*(self._one_token(messages) for messages in asked))
        return self._clock() - started

    async def step(self, at_once: int) -> float:
        """Seconds from token to token in so many answers at once."""
        asked = [
            [{"role": "user", "content": f"Tell a long story about {words(4, self._rng)}."}]
            for _ in range(at_once)
        ]
        # Read once, so that what is timed then is the answers.
        await asyncio.gather(*(self._one_token(messages) for messages in asked))
        started = self._clock()
        bodies = [{"messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0} for messages in asked]
        answers = await asyncio.gather(*(ask(self._session, self._target, body) for body in bodies))
        seconds = self._clock() - started
        if bad := [answer for answer in answers if not answer.complete or answer.tokens < ANSWER_TOKENS / 2]:
            raise RuntimeError(f"{self._target.model}: an answer was too short to measure: {bad[0]}")
        return seconds / max(answer.tokens for answer in answers)

    def _clock(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._pids) / self._threads

    async def _timed(self, messages: list[dict[str, str]]) -> tuple[float, int, int]:
        """Seconds until an answer of one token is there, prompt tokens, and how many of them were reused."""
        started = self._clock()
        usage = await self._one_token(messages)
        details = usage.get("prompt_tokens_details") or {}
        return self._clock() - started, usage["prompt_tokens"], details.get("cached_tokens") or 0

    async def _one_token(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """The usage of an answer of one token."""
        body = {"model": self._target.model, "messages": messages, "max_tokens": 1, "temperature": 0}
        headers = {"authorization": f"Bearer {self._target.key}", **self._target.headers}
        url = f"{self._target.url}/chat/completions"
        async with self._session.post(url, json=body, headers=headers) as response:
            answer: dict[str, Any] = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{self._target.model}: {answer}")
        usage: dict[str, Any] = answer["usage"]
        return usage


async def _variant(variant: Asked, served: ServedVariant, rounds: int) -> VariantTimes:
    fresh: dict[int, float] = {}
    reused: dict[int, float] = {}
    await variant.prompts(SIZES[0])
    for size in SIZES:
        pairs = [await variant.prompts(size) for _ in range(rounds)]
        for curve, times in zip((fresh, reused), zip(*pairs, strict=True), strict=True):
            curve[round(median([float(length) for length, _ in times]))] = min(seconds for _, seconds in times)
    together = {n: min([await variant.together(n) for _ in range(rounds)]) for n in AT_ONCE}
    step = {n: min([await variant.step(n) for _ in range(rounds)]) for n in AT_ONCE}
    return VariantTimes(
        parallel=served.parallel,
        sequences=2 * served.parallel,  # as deployments/llamacpp/engine.py makes them
        kv_tokens=served.pool_tokens,
        fresh=_rounded(fresh),
        reused=_rounded(reused),
        together=_rounded(together),
        step=_rounded(step),
    )


def _rounded(curve: Mapping[int, float]) -> dict[int, float]:
    return {x: round(y, 5) for x, y in curve.items()}


# -- shared parts ------------------------------------------------------------------------------------


class Meter:
    """The CPU time of each shared part, over a span of time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle = dict.fromkeys(PARTS, 0.0)
        parts = {part for _, part in self._processes()}
        if missing := [part for part in PARTS if part not in parts]:
            raise SystemExit(
                f"there is no process of {', '.join(missing)}: is everything embedded, and on this node?"
            )

    def _processes(self) -> list[tuple[int, str]]:
        found = []
        for process in marked(self._settings):
            part = part_of(" ".join(process.cmdline()))
            if part is not None:
                found.append((process.pid, part))
        return found

    async def span(self, work: Callable[[], Coroutine[Any, Any, None]]) -> dict[str, float]:
        """CPU seconds of each part while `work` is done, and the Ledger after it."""
        before = {pid: cpu_seconds(pid) for pid, _ in self._processes()}
        started = time.perf_counter()
        await work()
        await asyncio.sleep(DRAIN_SECONDS)
        seconds = time.perf_counter() - started
        used = dict.fromkeys(PARTS, 0.0)
        for pid, part in self._processes():
            used[part] += max(0.0, cpu_seconds(pid) - before.get(pid, 0.0))
        return {part: max(0.0, used[part] - self._idle[part] * seconds) for part in PARTS}

    async def learn_idle(self) -> None:
        """What the parts take when nobody asks, to be taken off from now on."""

        async def rest() -> None:
            await asyncio.sleep(IDLE_SECONDS)

        self._idle = dict.fromkeys(PARTS, 0.0)
        used = await self.span(rest)
        self._idle = {part: used[part] / (IDLE_SECONDS + DRAIN_SECONDS) for part in PARTS}


async def _ask_all(session: aiohttp.ClientSession, target: Target, bodies: list[dict[str, Any]]) -> list[Answer]:
    waiting = list(bodies)
    answers: list[Answer] = []

    async def client() -> None:
        while waiting:
            answers.append(await ask(session, target, waiting.pop()))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    if bad := [answer for answer in answers if answer.status != 200 or answer.error]:
        raise RuntimeError(f"{len(bad)} of {len(answers)} requests failed, the first with {bad[0]}")
    return answers


async def _outcomes(session: aiohttp.ClientSession, target: Target) -> dict[str, int]:
    headers = {"authorization": f"Bearer {target.key}"}
    async with session.get(f"{target.url}/cache/stats", headers=headers) as response:
        outcomes: dict[str, int] = (await response.json())["outcomes"]
        return outcomes


async def _parts(
    session: aiohttp.ClientSession,
    url: str,
    key: str,
    settings: Settings,
    count: int,
    rounds: int,
    done: Callable[[], None],
) -> dict[str, PartTimes]:
    """CPU milliseconds of each part, by kind of request."""
    meter, rng = Meter(settings), random.Random(time.time_ns())
    plain = Target("use", url, LEVEL, key)
    unstored = Target("no-store", url, LEVEL, key, NO_STORE)
    anew = Target("no-cache", url, LEVEL, key, {"cache-control": "no-cache"})

    async def once(
        target: Target, body: Callable[[], dict[str, Any]], number: int, expected: str
    ) -> tuple[dict[str, float], float]:
        answers: list[Answer] = []

        async def work() -> None:
            answers.extend(await _ask_all(session, target, [body() for _ in range(number)]))

        before = await _outcomes(session, target)
        used = await meter.span(work)
        after = await _outcomes(session, target)
        if after[expected] - before[expected] < 0.9 * number:
            raise RuntimeError(f"not {expected}: {before} became {after}")
        tokens = sum(answer.tokens for answer in answers) / number
        return {part: 1e3 * used[part] / number for part in PARTS}, tokens

    async def measure(
        target: Target, body: Callable[[], dict[str, Any]], number: int, expected: str
    ) -> tuple[dict[str, float], float]:
        """Milliseconds of each part for a request, and the tokens of its answer."""
        results = [await once(target, body, number, expected) for _ in range(rounds)]
        done()
        least = {part: min(used[part] for used, _ in results) for part in PARTS}
        return least, sum(tokens for _, tokens in results) / rounds

    def short(tokens: int = 1) -> dict[str, Any]:
        return {"max_tokens": tokens, "temperature": 0}

    def question() -> dict[str, Any]:
        # Ends with `stop` after a word, so that it is kept.
        asked = {"role": "user", "content": f"What do {words(8, rng)} have in common?"}
        return {"messages": [asked], "max_tokens": 16, "temperature": 0, "stop": [" ", "\n"]}

    def turn() -> dict[str, Any]:
        said = [
            {"role": "user", "content": f"What is {words(3, rng)}?"},
            {"role": "assistant", "content": "A thing."},
        ]
        return {"messages": [*said, {"role": "user", "content": f"And {words(8, rng)}?"}], **short()}

    story = {"messages": [{"role": "user", "content": "Tell a long story."}]}
    same = question()
    await _ask_all(session, plain, [same])
    await asyncio.sleep(1)
    await _ask_all(session, plain, [question() for _ in range(20)])
    await meter.learn_idle()
    done()
    one, tokens_of_one = await measure(unstored, lambda: {**story, **short()}, count, "bypass")
    many, tokens_of_many = await measure(unstored, lambda: {**story, **short(33)}, count // 2, "bypass")
    further = tokens_of_many - tokens_of_one
    token = {part: max(0.0, (many[part] - one[part]) / further) for part in PARTS}
    hits, _ = await measure(plain, lambda: same, count, "exact")
    turns, _ = await measure(plain, turn, count, "miss")
    asked, tokens = await measure(plain, question, count, "miss")
    # Asked anew: nothing is looked up, so what is left for Redis is to keep the answer.
    put, _ = await measure(anew, question, count, "miss")
    questions = {
        part: max(0.0, asked[part] - (tokens - 1) * token[part] - (put[part] if part == "Redis" else 0.0))
        for part in PARTS
    }
    kinds = {"hit": hits, "question": questions, "turn": turns, "token": token, "kept": put}
    # What a part takes meanwhile that has nothing to do with a kind of request is not charged to it.
    return {
        part: PartTimes(
            **{kind: round(used[part], 4) if part in TOUCHED[kind] else 0.0 for kind, used in kinds.items()}
        )
        for part in PARTS
    }


def prefix_tree_times(chars: int = 2000, requests: int = 500) -> dict[int, float] | None:
    """Replicas → CPU milliseconds of a look-up and an insertion in the tree behind Ray's prefix-aware request
    router. None where ray[llm] is not installed."""
    try:
        from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTree
    except ImportError:
        return None
    rng = random.Random(0)
    curve = {}
    for replicas in (REPLICAS[0], *REPLICAS):  # the first twice, to warm up
        tree, names = PrefixTree(), [f"groupqwen#variant#{number:08d}" for number in range(replicas)]
        tree.add_tenants(names, 0.0)
        prompts = [words(chars // 6, rng) for _ in range(requests)]
        for number, prompt in enumerate(prompts):
            tree.insert(prompt[: chars // 2], rng.choice(names), number)
        started = time.process_time()
        for number, prompt in enumerate(prompts):
            tree.prefix_match(prompt, names)
            tree.insert(prompt, rng.choice(names), requests + number)
        curve[replicas] = round(1e3 * (time.process_time() - started) / requests, 4)
    return curve


# -- all of it ---------------------------------------------------------------------------------------


async def _record(settings: Settings, key: str, rounds: int, count: int, progress: Progress) -> ServiceTimes:
    catalog, here, others = settings.catalog, settings.profile.on(None).variants, Others(settings)
    names = sorted(
        (name for name in here if catalog.variant(name).engine == "llama.cpp"),
        key=lambda name: catalog.variant(name).source.bytes or 0,
    )
    work = progress.add_task("recording", total=len(names) + 8)

    def done() -> None:
        progress.advance(work)

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        parts = await _parts(session, settings.endpoint, key, settings, count, rounds, done)
        variants = {}
        for name in names:
            variant = Asked(session, Target(name, settings.endpoint, name, key, NO_STORE), settings)
            variants[name] = await _variant(variant, here[name], rounds)
            done()
    tree = prefix_tree_times()
    done()
    return ServiceTimes(
        machine=machine(),
        disturbance=f"others took {others.share:.0%} of the machine meanwhile",
        command="python scripts/simulate_fleet.py record",
        date=datetime.date.today().isoformat(),
        profile=settings.profile.name,
        variants=variants,
        parts=parts,
        prefix_tree=tree,
    )


def record(path: Path, rounds: int, count: int) -> ServiceTimes:
    """Record, and write the file."""
    here = home()
    choices = remembered(here)
    if choices is None:
        raise SystemExit("start GroupQwen first: bash scripts/up.sh")
    settings = settings_for(here, choices)
    with Progress(console=console) as progress:
        times = asyncio.run(_record(settings, load_credentials(here).api_key, rounds, count, progress))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(times.model_dump(exclude_none=True), sort_keys=False, width=115))
    return times
