"""A client that measures: streams chat completions and notes when what came."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Target:
    """An OpenAI-compatible endpoint. `url` ends with /v1."""

    name: str
    url: str
    model: str
    key: str = "none"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One streamed answer. Seconds; `first` is the time to the first content, None if none came."""

    status: int
    first: float | None
    total: float
    tokens: int
    text: str
    error: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """OpenAI's, token by token, where they were asked for."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What GroupQwen says of its answer."""

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.error is None and self.first is not None


async def ask(session: aiohttp.ClientSession, target: Target, body: dict[str, Any]) -> Answer:
    """Stream one answer. `tokens` is what the server's usage says, else the number of content chunks."""
    body = {"model": target.model, "stream": True, "stream_options": {"include_usage": True}, **body}
    headers = {"authorization": f"Bearer {target.key}", **target.headers}
    started = time.perf_counter()
    first: float | None = None
    texts: list[str] = []
    usage = 0
    logprobs: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    error: str | None = "the stream ended without [DONE]"
    async with session.post(f"{target.url}/chat/completions", json=body, headers=headers) as response:
        if response.status != 200:
            text = await response.text()
            return Answer(response.status, None, time.perf_counter() - started, 0, "", text[:200])
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                error = None
                break
            event = json.loads(data)
            if "error" in event:
                error = str(event["error"].get("message"))
                break
            usage = (event.get("usage") or {}).get("completion_tokens", usage)
            metadata = event.get("metadata") or metadata
            for choice in event.get("choices", []):
                logprobs += (choice.get("logprobs") or {}).get("content") or []
                content = choice.get("delta", {}).get("content")
                if content:
                    first = first or time.perf_counter() - started
                    texts.append(content)
    total = time.perf_counter() - started
    return Answer(200, first, total, usage or len(texts), "".join(texts), error, logprobs, metadata)


async def run(target: Target, bodies: Sequence[dict[str, Any]], concurrency: int) -> tuple[list[Answer], float]:
    """Ask all `bodies`, at most `concurrency` at once; the answers and the wall time (seconds)."""
    waiting = list(reversed(bodies))
    answers: list[Answer] = []
    timeout = aiohttp.ClientTimeout(total=600)
    # A new connection for each request: one of the peers drops kept ones in mid-request.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)

    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def worker() -> None:
            while waiting:
                answers.append(await ask(session, target, waiting.pop()))

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return answers, time.perf_counter() - started


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
