"""Three variants in a budget that does not hold them together, on the real stack."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from configs.catalog import load_catalog
from configs.profile import load_profile
from tests.configs.grafana.exported import ours
from tests.integration.conftest import LARGE, MIDDLE, ONE_OF_THREE, QWENS_NO_END, SMALL, Stack, wait_for
from tests.integration.exposition import scraped

VARIANTS = (SMALL, MIDDLE, LARGE)


@pytest.fixture(scope="module")
def small_budget(stack: Stack) -> Stack:
    """The stack with the profile of this test."""
    stack.use(ONE_OF_THREE)
    return stack


def state(stack: Stack, variant: str) -> str:
    return str(stack.status(variant)["state"])


def wait_for_state(stack: Stack, variant: str, *states: str, seconds: float = 60) -> None:
    wait_for(lambda: state(stack, variant) in states, seconds, f"{variant} did not become {' or '.join(states)}")


class Watch:
    """Resident memory of the variants' processes together, MiB, ten times a second."""

    def __init__(self, stack: Stack) -> None:
        self._processes = [stack.replica(variant) for variant in VARIANTS]
        self._done = threading.Event()
        self.peak = 0
        self.samples = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.1):
            total = 0
            for process in self._processes:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total // 2**20)
            self.samples += 1


def test_nothing_is_loaded_before_it_is_asked_for(small_budget: Stack) -> None:
    assert {state(small_budget, variant) for variant in VARIANTS} == {"absent"}
    assert small_budget.health()["status"] == "ok"


def test_three_hundred_requests_complete_within_the_budget(small_budget: Stack) -> None:
    trace = random.Random(0).choices((MIDDLE, SMALL, LARGE), (1, 1 / 2, 1 / 3), k=300)
    with Watch(small_budget) as watch, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda name: small_budget.ask("Hi", model=name, max_tokens=2), trace))
    assert Counter(answer.status_code for answer in answers) == {200: 300}
    budget = load_profile(str(ONE_OF_THREE), load_catalog()).machine.memory_mb
    assert budget is not None
    assert watch.samples > 50
    assert watch.peak <= budget
    # Whoever was replaced says so.
    for name, answer in zip(trace, answers, strict=True):
        about = answer.json()["metadata"]
        assert about["variant"] == name or "was not ready in time" in about["route"]["reason"]


def test_what_the_dashboards_show_of_it_is_there(small_budget: Stack) -> None:
    wanted = {name: labels for name, labels in ours().items() if name.startswith("ray_groupqwen_residency_")}
    assert len(wanted) == 6
    wait_for(lambda: wanted.keys() <= scraped(small_budget).keys(), 60, lambda: f"{scraped(small_budget).keys()}")
    there = scraped(small_budget)
    assert {name for name, labels in wanted.items() if not labels <= there[name]} == set()


def test_a_variant_can_be_brought_in_sent_out_and_pinned(small_budget: Stack) -> None:
    assert small_budget.post(f"/models/{SMALL}/load", {}).json()["state"] == "awake"
    assert state(small_budget, SMALL) == "awake"
    assert small_budget.post(f"/models/{SMALL}/pin", {"pinned": True}).json()["pinned"] is True
    too_much = small_budget.post(f"/models/{LARGE}/pin", {"pinned": True})
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (409, "no_room")
    assert small_budget.post(f"/models/{LARGE}/load", {}).json()["state"] == "awake"
    assert state(small_budget, SMALL) == "awake", "it is pinned"
    assert small_budget.post(f"/models/{SMALL}/pin", {"pinned": False}).json()["pinned"] is False
    small_budget.post(f"/models/{SMALL}/unload", {})
    wait_for_state(small_budget, SMALL, "absent")
    assert small_budget.post("/models/nobody/load", {}).status_code == 404
    assert small_budget.post("/models/auto/unload", {}).status_code == 409


def test_who_waits_too_long_is_answered_by_the_best_that_is_awake(small_budget: Stack) -> None:
    for variant in (SMALL, LARGE):
        assert small_budget.post(f"/models/{variant}/load", {}).status_code == 200
    if state(small_budget, MIDDLE) == "awake":
        small_budget.post(f"/models/{MIDDLE}/unload", {})
        wait_for_state(small_budget, MIDDLE, "absent")
    endless = {
        "model": LARGE,
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "logit_bias": QWENS_NO_END,
        "max_tokens": 1900,
        "stream": True,
    }
    headers = {**small_budget.headers, "cache-control": "no-store"}
    with httpx.stream(
        "POST", f"{small_budget.url}/chat/completions", json=endless, headers=headers, timeout=60
    ) as story:
        lines = story.iter_lines()
        next(lines)
        # It can only come when the story has ended: what is being answered is never put out.
        with ThreadPoolExecutor(1) as other:
            started = time.monotonic()
            asked = other.submit(small_budget.ask, "Hi", model=MIDDLE, max_tokens=2)
            # (Who does not read for six seconds is cut off here.)
            meanwhile = itertools.takewhile(lambda _: not asked.done(), lines)
            heard = sum(line.startswith("data: ") for line in meanwhile)
            waited = time.monotonic() - started
            answer = asked.result()
        assert state(small_budget, LARGE) == "draining", f"after {waited:.1f} s and {heard} tokens"
    about = answer.json()["metadata"]
    assert about["variant"] == SMALL
    assert f"{MIDDLE} was not ready in time" in about["route"]["reason"]
    assert waited >= load_profile(str(ONE_OF_THREE), load_catalog()).limits.wake_seconds - 1
    # The client of the story has left, so its variant can go, and the one that was wanted comes.
    wait_for_state(small_budget, MIDDLE, "awake")


def test_it_survives_the_death_of_residency_and_of_a_variant(small_budget: Stack) -> None:
    assert small_budget.ask("Hi", model=LARGE, max_tokens=2).json()["metadata"]["variant"] == LARGE
    assert small_budget.post(f"/models/{SMALL}/pin", {"pinned": True}).status_code == 200
    small_budget.replica("Residency").kill()

    def middle_answers() -> bool:
        answer = small_budget.ask("Hi", model=MIDDLE, max_tokens=2)
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["metadata"]["variant"] == MIDDLE)

    # (Until Residency is back, which takes a busy machine longer than a wake may, another one answers.)
    wait_for(middle_answers, 90, "nobody brings variants in any more")
    too_much = small_budget.post(f"/models/{LARGE}/pin", {"pinned": True})
    assert too_much.status_code == 409, "the other pin was forgotten"
    assert small_budget.post(f"/models/{SMALL}/pin", {"pinned": False}).status_code == 200
    small_budget.replica(MIDDLE).kill()
    wait_for(lambda: small_budget.health().get("status") == "ok", 90, "the variant was not restarted")

    def answers() -> bool:
        try:
            response = small_budget.ask("Hi", model=MIDDLE, max_tokens=2)
            return response.status_code == 200 and response.json()["metadata"]["variant"] == MIDDLE
        except (httpx.HTTPError, json.JSONDecodeError):
            return False

    wait_for(answers, 60, "it was not brought in again")
