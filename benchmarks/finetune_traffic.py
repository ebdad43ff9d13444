"""Short requests before a fine-tuning job, while it trains, and after it: how long they take, and what fails.

Needs the running group (`bash scripts/up.sh` with the extra `train`). The job trains on the demo's household.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.load import median, percentile
from benchmarks.machine import console, show
from groupqwen.client import ask, endpoint_and_key, get
from groupqwen.stack.deploy import http
from train.demo.chats import load_household, make_chats

QUESTION = "Name one colour, and say where it is seen in nature."
PAUSE = 0.2
"""Seconds between a client's answer and its next question."""
PATIENCE = 1800
"""Seconds that the job may take to begin, or to end."""


@dataclass
class Phase:
    """Seconds of each answer, and what failed."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def traffic(endpoint: str, key: str, variant: str, clients: int) -> Iterator[Phase]:
    """Clients that ask one thing after the other while this is entered."""
    phase, over = Phase(), threading.Event()

    def client() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                answer = http().post(
                    f"{endpoint}/chat/completions",
                    headers={"Authorization": f"Bearer {key}", "cache-control": "no-store"},
                    json={
                        "model": variant,
                        "messages": [{"role": "user", "content": QUESTION}],
                        "max_tokens": 16,
                        "temperature": 0,
                    },
                    timeout=120,
                )
            except httpx.HTTPError as error:
                phase.failed.append(repr(error))
            else:
                if answer.status_code == 200:
                    phase.seconds.append(time.monotonic() - began)
                else:
                    phase.failed.append(f"{answer.status_code} {answer.text[:200]}")
            over.wait(PAUSE)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield phase
    finally:
        over.set()
        for thread in threads:
            thread.join()


def upload(endpoint: str, key: str) -> str:
    """The household's chats, as a file of the API."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": chat.question},
                    {"role": "assistant", "content": chat.answer},
                ]
            }
        )
        for chat in make_chats(load_household(), seed=42)
    ]
    answer = http().post(
        f"{endpoint}/files",
        headers={"Authorization": f"Bearer {key}"},
        data={"purpose": "fine-tune"},
        files={"file": ("household.jsonl", "\n".join(lines).encode(), "application/jsonl")},
        timeout=60,
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def main(base: str, asked: str, clients: int, seconds: float, steps: int) -> None:
    """Prints the table. `base` is trained for so many steps, while `asked` answers."""
    endpoint, key = endpoint_and_key()
    found: dict[str, Phase] = {}

    def quiet(name: str) -> None:
        with console.status(f"{name}: {seconds:.0f} s"), traffic(endpoint, key, asked, clients) as phase:
            time.sleep(seconds)
        found[name] = phase

    quiet("before")
    body = {"base": base, "name": "of-the-benchmark", "training_file": upload(endpoint, key), "recipe": "habits"}
    overrides = {"max_steps": steps, "epochs": 100, "max_length": 512}
    job = ask(endpoint, key, "/finetune/start", {**body, "overrides": overrides, "evaluate": False}).json()["id"]

    def state() -> tuple[str, bool]:
        now = get(endpoint, key, f"/finetune/{job}").json()
        return str(now["state"]), now["progress"]["step"] is not None

    def wait(done: tuple[str, ...], stepping: bool) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            name, steps_now = state()
            if name in done or (stepping and steps_now):
                return
            time.sleep(1)
        raise TimeoutError(f"{job} is {state()[0]} after {PATIENCE} s")

    ended = ("succeeded", "failed", "cancelled")
    with console.status("the job begins"):
        wait(ended, stepping=True)
    with console.status("while it trains"), traffic(endpoint, key, asked, clients) as phase:
        wait(ended, stepping=False)
    found["while it trains"] = phase
    outcome = state()[0]
    quiet("after")
    rows = [
        [
            name,
            str(len(phase.seconds)),
            *(f"{at * 1e3:.0f}" for at in (median(phase.seconds), percentile(phase.seconds, 0.95))),
            f"{percentile(phase.seconds, 0.95) / percentile(found['before'].seconds, 0.95):.2f}",
            str(len(phase.failed)),
        ]
        for name, phase in found.items()
    ]
    columns = ["", "answers", "p50, ms", "p95, ms", "p95 to before", "failed"]
    show(f"{clients} clients of {asked} while {base} trains for {steps} steps", columns, rows)
    for phase in found.values():
        for why in phase.failed[:3]:
            console.print(why)
    console.print(f"The job: {outcome}.")
