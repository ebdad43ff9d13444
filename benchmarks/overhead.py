"""What the composition adds to an engine, beside what LiteLLM's proxy adds to the same engine.

The engine is our smallest variant. Asked directly means: the same engine behind a bare uvicorn. Asked
through GroupQwen means: HAProxy, Gateway, Router (with its cache lookup and classification), variant.
LiteLLM's proxy stands before the same bare server. The sides take turns request by request. Needs a
running `cpu` profile (`bash scripts/up.sh`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from rich.progress import track

from benchmarks import servers
from benchmarks.load import Target, ask, median, percentile
from benchmarks.machine import console, show
from configs.catalog import load_catalog
from configs.home import home
from groupqwen.stack.credentials import load_credentials
from groupqwen.stack.lifecycle import remembered, settings_for
from groupqwen.stack.settings import Settings

VARIANT = "smollm2-135m"


def litellm_proxy(
    upstream: Target, folder: Path, cache: dict[str, Any] | None = None
) -> tuple[str, list[str], int, str, dict[str, str], str]:
    """Arguments of `server` for LiteLLM's proxy before `upstream`; `cache`: its `cache_params`."""
    key = f"sk-{secrets.token_hex(32)}"
    port = servers.free_port()
    config = folder / "litellm.yaml"
    parameters = {"model": f"openai/{upstream.model}", "api_base": upstream.url, "api_key": "none"}
    settings: dict[str, Any] = {"model_list": [{"model_name": "peer", "litellm_params": parameters}]}
    if cache is not None:
        settings["litellm_settings"] = {"cache": True, "cache_params": cache}
    config.write_text(json.dumps(settings))
    command = [str(Path(servers.peers_python()).parent / "litellm"), "--config", str(config)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True", "LITELLM_MASTER_KEY": key}
    # Without the first it waits for the network when it is imported.
    return "LiteLLM proxy", command, port, "peer", environment, key


QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name one colour, and say where it is seen in nature."}],
    "max_tokens": 4,
    "temperature": 0,
}
"""Asked again and again, so that every engine has all but the last token of the prompt in its KV cache and
what is left is the way to it. Cut off after four tokens, the answer is never stored, so each lookup in
our cache is a full one (exact, embedding, vector search) and a miss."""


async def measure(targets: list[Target], rounds: int) -> dict[str, list[float]]:
    """Times to first token, milliseconds, the sides taking turns."""
    firsts: dict[str, list[float]] = {target.name: [] for target in targets}
    async with aiohttp.ClientSession() as session:
        for target in targets:
            for _ in range(5):
                await ask(session, target, QUESTION)
        for number in track(range(rounds), "time to first token", console=console):
            for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                answer = await ask(session, target, QUESTION)
                if not answer.complete:
                    raise RuntimeError(f"{target.name}: {answer}")
                firsts[target.name].append(1e3 * (answer.first or 0.0))
    return firsts


async def measure_hits(target: Target, rounds: int) -> list[float]:
    """End-to-end times of exact cache hits, milliseconds, body and all."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": f"Say hi. {time.time_ns()}"}],
        "temperature": 0,
        "max_tokens": 200,
    }
    times = []
    headers = {"authorization": f"Bearer {target.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        # Written anew, because a similar question of an earlier run would be a semantic hit; it is stored just
        # after it was sent.
        fresh = {"cache-control": "no-cache"}
        async with session.post(f"{target.url}/chat/completions", json=body, headers=fresh) as response:
            await response.read()
        await asyncio.sleep(1)
        for number in range(rounds + 5):
            started = time.perf_counter()
            async with session.post(f"{target.url}/chat/completions", json=body) as response:
                await response.read()
                outcome = response.headers["x-groupqwen-cache"]
            if number >= 5:
                if outcome != "exact":
                    raise RuntimeError(f"not an exact hit but {outcome}")
                times.append(1e3 * (time.perf_counter() - started))
    return times


def running() -> Settings:
    """Of the group that was started here last."""
    choices = remembered(home())
    if choices is None:
        raise SystemExit("start GroupQwen first: bash scripts/up.sh")
    return settings_for(home(), choices)


def group_and_engine(settings: Settings) -> tuple[Target, tuple[str, list[str], int, str, dict[str, str]]]:
    """The running group, and arguments of `servers.server` for its smallest engine behind a bare uvicorn."""
    group = Target("GroupQwen", settings.endpoint, VARIANT, load_credentials(settings.home).api_key)
    model = settings.home.model_file(VARIANT, load_catalog().variant(VARIANT).source)
    served = settings.profile.variants[VARIANT]
    return group, servers.ours(model, served.threads or 1, served.parallel, served.pool_tokens)


def main(rounds: int) -> None:
    """Measure and print."""
    settings = running()
    here = settings.home
    group, bare = group_and_engine(settings)
    with ExitStack() as stack:
        direct = stack.enter_context(servers.server("the engine, directly", *bare[1:])).target
        proxy = stack.enter_context(servers.server(*litellm_proxy(direct, here.run))).target
        firsts = asyncio.run(measure([direct, group, proxy], rounds))
        hits = asyncio.run(measure_hits(group, rounds))
    report(firsts, hits, [direct.name, group.name, proxy.name])


def report(firsts: dict[str, list[float]], hits: list[float], names: list[str]) -> None:
    base = median(firsts[names[0]])
    rows = [
        [
            name,
            f"{median(firsts[name]):.1f} / {percentile(firsts[name], 0.95):.1f}",
            "" if name == names[0] else f"{median(firsts[name]) - base:+.1f}",
        ]
        for name in names
    ]
    show("Time to first token", ["side", "p50 / p95, ms", "added at p50, ms"], rows)
    show(
        "Exact cache hit, end to end",
        ["p50, ms", "p95, ms"],
        [[f"{median(hits):.1f}", f"{percentile(hits, 0.95):.1f}"]],
    )
