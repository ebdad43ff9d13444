"""How long the cache takes: its own lookups over more and more entries, hits through the whole stack beside
LiteLLM's proxy with its Redis cache, and how much later a miss begins. Needs a running group
(`bash scripts/up.sh`).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.progress import track

from benchmarks import servers
from benchmarks.load import Target, ask, median, percentile
from benchmarks.machine import console, show
from benchmarks.overhead import VARIANT, group_and_engine, litellm_proxy, running
from configs.home import Home
from configs.routing import CacheRules
from deployments.cache.answer import CachedAnswer
from deployments.cache.entries import Kept
from deployments.cache.exact_store import connect
from deployments.cache.experience import Experience
from deployments.cache.seal import Sealed
from deployments.cache.store import CacheStore, as_bytes
from deployments.embedding.embedder import Embedder
from groupqwen.stack import redis
from groupqwen.stack.settings import Settings

SIZES = (1_000, 10_000, 100_000)
LOOKUPS = 500
CONCURRENT = 32
FEWEST_HITS = 20
"""Of which a median says something."""

ANSWER = CachedAnswer(VARIANT, "It is told in a few words, of which there are some more.", None, 20, 12, 0)


def main(rounds: int) -> None:
    """Measure and print."""
    settings = running()
    lookups(settings)
    through_the_stack(settings, rounds)


def lookups(settings: Settings) -> None:
    """In one process, one after the other, as the Router and the SemanticCache make them."""
    model = settings.home.embedder_file(settings.profile.embedder)
    spec = settings.catalog.embedders[settings.profile.embedder]
    embedder = Embedder(model, model.parent / "tokenizer.json", max_tokens=spec.max_tokens)
    # (A Redis of its own: the group's deletes what another key has sealed.)
    with _redis(settings.home) as (port, password):
        rows = asyncio.run(_lookups(f"redis://:{password}@127.0.0.1:{port}", embedder))
    show(
        "A lookup, one after the other: ms (p50 / p99)",
        ["entries", "exact", "similar: embedding, search, decision", "of it the search"],
        rows,
    )


async def _lookups(url: str, embedder: Embedder) -> list[list[str]]:
    connection = connect(url)
    # (Opening is part of the time.)
    store = CacheStore(connection, embedder.dimensions, "of-the-benchmark", Sealed(secrets.token_bytes(32)))
    experience = Experience(CacheRules())
    draw = np.random.default_rng(0)
    rows: list[list[str]] = []
    there = 0
    _, epoch = await store.get("nothing")
    try:
        for size in SIZES:
            for place in track(range(there, size), f"{size:,} entries", console=console, transient=True):
                vector = draw.normal(size=embedder.dimensions)
                kept = Kept(
                    key=f"bench{place:035d}",
                    answer=ANSWER,
                    epoch=epoch,
                    scope="benchmark",
                    seconds=3600,
                    fingerprint="benchmark",
                    embedding=as_bytes((vector / np.linalg.norm(vector)).astype(np.float32)),
                    query=f"How is number {place} told in a few words?",
                )
                await store.put(kept)
            there = size

            async def exact(number: int) -> None:
                await store.get(f"bench{number:035d}")

            search: list[float] = []

            async def similar(number: int, search: list[float] = search) -> None:
                query = f"In which words could one tell of the number {number}?"
                vector = embedder.embed([query])[0]
                began = time.perf_counter()
                near = await store.nearest("benchmark", as_bytes(vector), 5)
                search.append(1e3 * (time.perf_counter() - began))
                experience.decide(query, near, vector, "benchmark")

            one, other = await _timed(exact), await _timed(similar)
            rows.append([f"{size:,}", _both(one), _both(other), _both(search)])
    finally:
        await connection.aclose()
    return rows


async def _timed(lookup: Callable[[int], Awaitable[None]]) -> list[float]:
    times = []
    for number in range(LOOKUPS + 20):
        began = time.perf_counter()
        await lookup(number)
        times.append(1e3 * (time.perf_counter() - began))
    return times[20:]


def _both(times: list[float]) -> str:
    return f"{median(times):.2f} / {percentile(times, 0.99):.2f}"


def through_the_stack(settings: Settings, rounds: int) -> None:
    """Over HTTP, as clients see it."""
    here = settings.home
    group, bare = group_and_engine(settings)
    with ExitStack() as stack:
        direct = stack.enter_context(servers.server("the engine, directly", *bare[1:])).target
        port, password = stack.enter_context(_redis(here))
        cached = {"type": "redis", "host": "127.0.0.1", "port": port, "password": password}
        proxy = stack.enter_context(servers.server(*litellm_proxy(direct, here.run, cached))).target
        asyncio.run(_stack(group, proxy, rounds))


async def _stack(group: Target, proxy: Target, rounds: int) -> None:
    mark = secrets.token_hex(4)
    question = f"In one word: what colour is {mark} grass?"
    async with aiohttp.ClientSession() as session:
        for target in (group, proxy):
            await _ask(session, target, question)
        await asyncio.sleep(2)
        rows = []
        # Once it was drawn to be checked, the same wording is an exact hit: each is another.
        wordings = _in_other_letters(question, rounds + 5)
        for kind, questions in (("exact", [question] * (rounds + 5)), ("semantic", wordings)):
            asked = [await _ask(session, group, one) for one in questions][5:]
            times = [took for took, outcome in asked if outcome == kind]
            if len(times) < FEWEST_HITS:
                raise SystemExit(
                    f"only {len(times)} of {len(asked)} were {kind} hits: what was checked here speaks against "
                    "more (groupqwen cache stats)"
                )
            rows.append([f"GroupQwen, {kind} hit", f"{median(times):.1f} / {percentile(times, 0.99):.1f}"])
        times = [(await _ask(session, proxy, question))[0] for _ in range(rounds + 5)][5:]
        rows.append(["LiteLLM's proxy, exact hit", f"{median(times):.1f} / {percentile(times, 0.99):.1f}"])
        show("A hit through the stack, one client, body and all", ["side", "ms (p50 / p99)"], rows)
        row = await _miss(session, group, rounds)
        show("First token of a miss, one client", ["cache on, ms (p50)", "no-store", "what it costs"], [row])
        rates: dict[str, list[float]] = {group.name: [], proxy.name: []}
        for _ in range(3):
            for target in (group, proxy):
                rates[target.name].append(await _rate(session, target, question, 15 * rounds))
        rows = [[name, f"{median(each):.0f}"] for name, each in rates.items()]
        ratio = median(rates[group.name]) / median(rates[proxy.name])
        rows.append(["ours ÷ LiteLLM's", f"{ratio:.2f}"])
        show(
            f"Exact hits per second, {CONCURRENT} clients (median of three interleaved rounds)", ["side", ""], rows
        )


async def _miss(session: aiohttp.ClientSession, group: Target, rounds: int) -> list[str]:
    """How much later a miss begins than the same request that leaves the cache alone, the two taking turns. No two
    prompts are the same, all are equally long, and answers that are cut off are not kept."""
    sides = [group, replace(group, headers={"cache-control": "no-store"})]
    firsts: list[list[float]] = [[], []]
    numbers = iter(random.sample(range(10_000, 100_000), 2 * (rounds + 5)))
    for number in range(rounds + 5):
        for side in (0, 1) if number % 2 else (1, 0):
            question = f"Which word goes with {next(numbers)}?"
            body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 4}
            answer = await ask(session, sides[side], body)
            if answer.first is None:
                raise RuntimeError(f"{group.name}: {answer}")
            if number >= 5:
                firsts[side].append(1e3 * answer.first)
    on, off = map(median, firsts)
    return [f"{on:.1f}", f"{off:.1f}", f"{on - off:+.1f}"]


def _in_other_letters(question: str, count: int) -> list[str]:
    """The question in capitals here and there, each time in others."""
    places = [place for place, letter in enumerate(question) if letter.isalpha()][1:]
    return [
        "".join(
            letter.upper() if place in places and number >> places.index(place) & 1 else letter
            for place, letter in enumerate(question)
        )
        for number in range(1, count + 1)
    ]


async def _ask(session: aiohttp.ClientSession, target: Target, question: str) -> tuple[float, str | None]:
    """Milliseconds until the whole body is there, and what our cache said."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 200,
    }
    began = time.perf_counter()
    headers = {"authorization": f"Bearer {target.key}"}
    async with session.post(f"{target.url}/chat/completions", json=body, headers=headers) as response:
        text = await response.text()
        outcome = response.headers.get("x-groupqwen-cache")
    if response.status != 200:
        raise RuntimeError(f"{target.name}: {response.status}: {text[:300]}")
    return 1e3 * (time.perf_counter() - began), outcome


async def _rate(session: aiohttp.ClientSession, target: Target, question: str, requests: int) -> float:
    """Answers per second."""
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            await _ask(session, target, question)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONCURRENT)))
    return requests / (time.perf_counter() - began)


@contextmanager
def _redis(here: Home) -> Iterator[tuple[int, str]]:
    """One more, with search, on a port: its number and password."""
    binary = redis.find(here)
    if binary is None:
        raise SystemExit("there is no Redis yet: bash scripts/up.sh")
    port, password = servers.free_port(), secrets.token_hex(16)
    modules = [part for module in binary.modules for part in ("--loadmodule", str(module))]
    command = [str(binary.server), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *modules]
    process = subprocess.Popen([*command, "--requirepass", password], stdout=subprocess.DEVNULL, cwd=Path("/tmp"))
    try:
        _wait_for(port)
        yield port, password
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.1)
    raise SystemExit("Redis did not start")
