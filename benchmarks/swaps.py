"""What bringing each variant of a profile in and sending it out takes, in time and memory, on a group of its own.

On a card this is vLLM's sleep and wake; on a CPU, and for llama.cpp, loading and unloading. The first load also
reads the weights from the disk, so it is shown by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.progress import track

from benchmarks.live_residency import group
from benchmarks.load import median
from benchmarks.machine import console, show
from configs.document import ConfigError

PATIENCE_SECONDS = 600.0
ASK_SECONDS = 0.05


@dataclass
class Swapped:
    """Seconds and MiB. `card`: of the card, where there is one, else of the machine."""

    first: float = 0.0
    again: list[float] = field(default_factory=list)
    out: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    out_state: str = ""
    awake_mb: int = 0
    out_mb: int = 0


def main(profile: str, rounds: int) -> None:
    """Measure and print."""
    with group(profile) as (settings, credentials):
        served = settings.profile.on(None).variants
        names = [name for name, one in served.items() if one.keep == "auto"]
        if not names:
            raise ConfigError(f"profile {profile} keeps all its variants always: there is nothing to swap")
        headers = {"authorization": f"Bearer {credentials.api_key}", "cache-control": "no-store"}
        with httpx.Client(base_url=settings.endpoint, headers=headers, timeout=PATIENCE_SECONDS) as client:
            for name in names:  # Those that fit beside each other are awake at the start.
                _out(client, name)
            seen = {name: _measure(client, name, rounds) for name in track(names, "swapping", console=console)}
        on_card = settings.profile.machine.accelerator == "cuda"
    where = "card" if on_card else "machine"
    show(
        f"{profile}: in and out, medians of {rounds} rounds",
        [
            "variant",
            "first load, s",
            "back in, s",
            "out, s",
            "out is",
            "an answer, s",
            f"awake, MiB of the {where}",
            "out, MiB",
        ],
        [
            [
                name,
                f"{one.first:.2f}",
                f"{median(one.again):.2f}",
                f"{median(one.out):.2f}",
                one.out_state,
                f"{median(one.answer):.2f}",
                f"{one.awake_mb}",
                f"{one.out_mb}",
            ]
            for name, one in seen.items()
        ],
    )


def _measure(client: httpx.Client, name: str, rounds: int) -> Swapped:
    seen = Swapped(first=_timed(lambda: _in(client, name)))
    for _ in range(rounds):
        seen.answer.append(_timed(lambda: _ask(client, name)))
        seen.awake_mb = max(seen.awake_mb, _memory(client, name))
        seen.out.append(_timed(lambda: _out(client, name)))
        seen.out_state, seen.out_mb = str(_status(client, name)["state"]), _memory(client, name)
        seen.again.append(_timed(lambda: _in(client, name)))
    _out(client, name)
    return seen


def _timed(what: Callable[[], None]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def _in(client: httpx.Client, name: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    # A first load may take longer than a request would wait for it.
    while (response := client.post(f"/models/{name}/load")).status_code == 503 and time.monotonic() < until:
        time.sleep(ASK_SECONDS)
    response.raise_for_status()


def _out(client: httpx.Client, name: str) -> None:
    client.post(f"/models/{name}/unload").raise_for_status()
    until = time.monotonic() + PATIENCE_SECONDS
    while _status(client, name)["state"] not in ("absent", "asleep"):
        if time.monotonic() > until:
            raise TimeoutError(f"{name} does not leave")
        time.sleep(ASK_SECONDS)


def _ask(client: httpx.Client, name: str) -> None:
    message = {"role": "user", "content": "Name three colours."}
    body = {"model": name, "messages": [message], "max_tokens": 32, "temperature": 0}
    client.post("/chat/completions", json=body).raise_for_status()


def _status(client: httpx.Client, name: str) -> dict[str, Any]:
    return dict(client.get(f"/models/{name}").raise_for_status().json()["status"])


def _memory(client: httpx.Client, name: str) -> int:
    status = _status(client, name)
    return int(status.get("gpu_memory_mb", status["memory_mb"]))
