"""Our llama.cpp variant beside llama_cpp.server and xllamacpp's server: same weights, threads, context.

All three run at once, one is loaded at a time, and the rounds are interleaved, so that a machine that
slows down slows all of them. Every figure is a median over rounds; ratios are taken round by round.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import servers
from benchmarks.load import Answer, median, percentile, run
from benchmarks.machine import console, show
from benchmarks.servers import Running

TOPICS = [
    "the history of the bicycle",
    "how bread rises",
    "why the sky is blue",
    "the rules of chess",
    "how a sailing boat moves against the wind",
    "the life of a honey bee",
    "what a compiler does",
    "the water cycle",
    "how vaccines work",
    "the causes of inflation",
    "how a piano makes sound",
    "the phases of the moon",
    "what makes a good password",
    "how glass is made",
    "the invention of the printing press",
    "how batteries store energy",
]


def bodies(count: int, tokens: int, round_number: int) -> list[dict[str, Any]]:
    """Requests that share no prefix worth reusing, greedy, with answers of `tokens` tokens."""
    asked = [TOPICS[(i + round_number) % len(TOPICS)] for i in range(count)]
    return [
        {
            "messages": [{"role": "user", "content": f"{100 * round_number + i}: write an essay about {topic}."}],
            "max_tokens": tokens,
            "temperature": 0,
        }
        for i, topic in enumerate(asked)
    ]


def measure(running: list[Running], concurrencies: list[int], rounds: int, tokens: int) -> None:
    """Interleaved rounds; prints tokens/s, times to first token, memory, and ratios to ours."""
    speeds: dict[tuple[str, int], list[float]] = {}
    firsts: dict[tuple[str, int], list[float]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("rounds", total=rounds * len(concurrencies) * len(running))
        for number in range(rounds):
            for concurrency in concurrencies:
                order = running[number % len(running) :] + running[: number % len(running)]
                for server in order:
                    count = max(2, concurrency * 2)
                    answers, wall = asyncio.run(
                        run(server.target, bodies(count, tokens, number * 7 + concurrency), concurrency)
                    )
                    _must_be_complete(server, answers)
                    at = (server.target.name, concurrency)
                    speeds.setdefault(at, []).append(sum(a.tokens for a in answers) / wall)
                    firsts.setdefault(at, []).extend(a.first or 0.0 for a in answers)
                    progress.advance(task)
    _report(running, concurrencies, speeds, firsts)


def _must_be_complete(server: Running, answers: list[Answer]) -> None:
    broken = next((answer for answer in answers if not answer.complete), None)
    if broken is not None:
        raise RuntimeError(f"{server.target.name}: an answer was not complete: {broken}")


def _report(
    running: list[Running],
    concurrencies: list[int],
    speeds: dict[tuple[str, int], list[float]],
    firsts: dict[tuple[str, int], list[float]],
) -> None:
    mine = running[0].target.name
    rows = []
    for concurrency in concurrencies:
        for server in running:
            at = (server.target.name, concurrency)
            ratio = median([a / b for a, b in zip(speeds[mine, concurrency], speeds[at], strict=True)])
            rows.append(
                [
                    str(concurrency),
                    server.target.name,
                    f"{median(speeds[at]):.1f}",
                    f"{ratio:.2f}×" if server is not running[0] else "",
                    f"{percentile(firsts[at], 0.5):.2f} / {percentile(firsts[at], 0.95):.2f}",
                    f"{server.memory_mb()}",
                ]
            )
    columns = ["concurrency", "server", "tokens/s", "ours ÷ it", "first token p50 / p95, s", "memory, MiB"]
    show("Engine", columns, rows)


def measure_prefix(server: Running) -> None:
    """What a repeated 1,000-token system prompt costs, as a share of its first evaluation."""
    system = " ".join(f"Rule {i}: stay polite and precise about topic {i * 7919 % 1000}." for i in range(62))
    shares = []
    for number in range(3):
        first, again = (
            asyncio.run(
                run(
                    server.target,
                    [
                        {
                            "messages": [
                                {"role": "system", "content": f"Set {number}. {system}"},
                                {"role": "user", "content": question},
                            ],
                            "max_tokens": 1,
                            "temperature": 0,
                        }
                    ],
                    1,
                )
            )[0][0].total
            for question in ("Say yes.", "Say no.")
        )
        shares.append(again / first)
    show(
        "Repeated 1,000-token system prompt",
        ["time of the second request ÷ the first", "target"],
        [[f"{100 * median(shares):.1f} % (median of {len(shares)})", "< 5 %"]],
    )


def main(model: Path, threads: int, context: int, rounds: int, tokens: int, concurrencies: list[int]) -> None:
    """Run the comparison on one GGUF file."""
    parallel = max(concurrencies)
    with ExitStack() as stack:
        running = [
            stack.enter_context(servers.server(*arguments))
            for arguments in (
                servers.ours(model, threads, parallel, context),
                servers.llama_cpp_server(model, threads, context),
                servers.xllamacpp_server(model, threads, parallel, context),
            )
        ]
        for server in running:  # warm up: weights into memory, code paths compiled
            asyncio.run(run(server.target, bodies(2, 8, 99), 2))
        measure(running, concurrencies, rounds, tokens)
        measure_prefix(running[0])
