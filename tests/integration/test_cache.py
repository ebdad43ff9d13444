"""The cache as users meet it: one answer for many, what is bad does not come back, what is forgotten is gone."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import redis

from tests.integration.conftest import MIDDLE, ROOT, SMALL, Stack, wait_for

JSON = {"content-type": "application/json"}
WORD: dict[str, Any] = {"model": MIDDLE, "max_tokens": 200}


def question(mark: str = ":") -> str:
    return f"In one word{mark} what colour is {uuid.uuid4().hex[:8]} grass?"


def outcome(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-groupqwen-cache"]


def keep(stack: Stack, asked: str, **fields: Any) -> httpx.Response:
    """Have it answered, until the answer is kept."""
    first = stack.ask(asked, cache="no-cache", **fields)
    assert first.json()["choices"][0]["finish_reason"] == "stop"
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **fields)) == "exact", 5, "it was not kept")
    return first


def entries(stack: Stack, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.get(f"/cache/entries?{urlencode(parameters)}").json()["entries"]
    return found


def test_sixty_four_that_ask_the_same_at_once_are_answered_once(stack: Stack) -> None:
    asked = f"Write four sentences about the letter {uuid.uuid4().hex[:6]}."
    before = stack.status(SMALL)["completion_tokens"]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: stack.ask(asked, cache=None, model=SMALL, max_tokens=120), range(64)))
    seen = Counter(map(outcome, answers))
    assert seen["miss"] == 1
    assert seen["coalesced"] >= 32, "(one that came late may find the answer kept)"
    assert sum(seen.values()) == seen["miss"] + seen["coalesced"] + seen["exact"] == 64
    bodies = [answer.json() for answer in answers]
    assert len({body["choices"][0]["message"]["content"] for body in bodies}) == 1
    assert len({body["id"] for body in bodies}) == 64, "each is an answer to its own request"
    assert stack.status(SMALL)["completion_tokens"] - before == bodies[0]["usage"]["completion_tokens"]


def endless() -> dict[str, Any]:
    """A request that is at work for seconds: its end-of-turn tokens are forbidden."""
    asked = [{"role": "user", "content": f"Count to forty, {uuid.uuid4().hex[:6]}."}]
    forbidden = {"0": -100, "2": -100}
    return {
        "messages": asked,
        **{"model": SMALL, "max_tokens": 600, "temperature": 0, "stream": True, "logit_bias": forbidden},
    }


def test_who_asked_first_may_leave(stack: Stack) -> None:
    body = endless()
    headers = stack.headers
    before = stack.get("/cache/stats").json()["outcomes"]["coalesced"]
    with (
        httpx.stream("POST", f"{stack.url}/chat/completions", json=body, headers=headers, timeout=60) as first,
        ThreadPoolExecutor(1) as pool,
    ):
        lines = first.iter_lines()
        next(lines)
        second = pool.submit(httpx.post, f"{stack.url}/chat/completions", json=body, headers=headers, timeout=60)
        wait_for(lambda: stack.get("/cache/stats").json()["outcomes"]["coalesced"] > before, 10, "nobody joined")
        first.close()
        whole = second.result()
    assert outcome(whole) == "coalesced"
    assert whole.text.rstrip().endswith("data: [DONE]")
    assert whole.text.count("data: {") > 500, "all of it"


def test_when_all_have_left_the_variant_is_free(stack: Stack) -> None:
    body = endless()
    before = stack.status(SMALL)["cancelled"]
    with (
        httpx.stream("POST", f"{stack.url}/chat/completions", json=body, headers=stack.headers) as first,
        httpx.stream("POST", f"{stack.url}/chat/completions", json=body, headers=stack.headers) as second,
    ):
        assert second.headers["x-groupqwen-cache"] == "coalesced"
        del first
    wait_for(lambda: stack.status(SMALL)["cancelled"] > before, 10, "it went on for nobody")
    wait_for(lambda: stack.status(SMALL)["active"] == 0, 10, "its slot was not freed")


def test_what_someone_finds_bad_does_not_come_again(stack: Stack) -> None:
    asked = question()
    first = keep(stack, asked, **WORD)
    reworded = asked.replace(":", ",")
    similar = stack.ask(reworded, cache=None, **WORD)
    assert outcome(similar) == "semantic"
    assert float(similar.headers["x-groupqwen-cache-distance"]) <= 0.03
    assert int(similar.headers["age"]) >= 0
    verdict = {"request_id": similar.headers["x-request-id"], "rating": "down"}
    assert stack.post("/feedback", verdict).json()["known"]
    assert outcome(stack.ask(reworded, cache=None, **WORD)) == "miss", "not for this question"
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "exact", "for its own it may be right"
    verdict = {"request_id": first.headers["x-request-id"], "rating": "down"}
    assert stack.post("/feedback", verdict).json()["known"]
    assert outcome(stack.ask(asked, cache=None, **WORD)) != "exact", (
        "(what was said to the other wording may serve)"
    )


def test_entries_are_shown_and_forgotten_by_query_and_by_id(stack: Stack) -> None:
    asked, other = question(), question()
    for one in (asked, other):
        keep(stack, one, **WORD)
    shown = [entries(stack, query=one, limit=1)[0] for one in (asked, other)]
    assert [one["query"] for one in shown] == [asked, other]
    assert shown[0]["variant"] == MIDDLE
    assert shown[0]["distance"] < 0.001
    assert 3000 < shown[0]["expires_in_seconds"] <= 4000
    near = {"query": asked, "distance": 0.001}
    assert stack.post("/cache/forget", {**near, "dry_run": True}).json()["deleted"] == 0
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "exact"
    gone = stack.post("/cache/forget", near).json()
    assert (gone["deleted"], [one["query"] for one in gone["entries"]]) == (1, [asked])
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "miss"
    assert stack.post("/cache/forget", {"ids": [shown[1]["id"]]}).json()["deleted"] == 1
    assert outcome(stack.ask(other, cache=None, **WORD)) == "miss"
    assert stack.post("/cache/forget", {"ids": ["0" * 40]}).json()["deleted"] == 0
    assert stack.post("/cache/forget", {}).status_code == 400
    assert stack.post("/cache/forget", {"ids": ["*"]}).status_code == 400
    half = '{"query": "half a character: \\ud800"}'
    sent = httpx.post(f"{stack.url}/cache/forget", content=half, headers={**stack.headers, **JSON}, timeout=30)
    assert sent.status_code == 400, sent.text


def test_a_query_of_redis_own_language_is_refused(stack: Stack) -> None:
    hostile = urlencode({"variant": "x} | @scope:{*} @variant:{*"})
    assert stack.get(f"/cache/entries?{hostile}").status_code == 400
    assert stack.post("/cache/forget", {"variant": "*"}).status_code == 400


@pytest.mark.parametrize("asked", ["What is the weather in Rome today?", "Please turn off the lights."])
def test_what_changes_or_does_something_is_never_kept(stack: Stack, asked: str) -> None:
    for _ in range(2):
        assert outcome(stack.ask(asked, cache=None, model=SMALL, max_tokens=4)) == "bypass"


def test_the_command_shows_what_is_kept_and_promised(stack: Stack) -> None:
    asked = question()
    keep(stack, asked, **WORD)
    stats = stack.run_cli("cache", "stats")
    assert stats.returncode == 0, stats.stderr
    assert "Mode certified" in stats.stdout
    row = next(line for line in stats.stdout.splitlines() if line.startswith("│ all"))
    assert len(row.strip("│").split("│")) == 7
    assert row.split("│")[2].strip().isdigit(), "checks come first"
    assert asked[:20] in " ".join(stack.run_cli("cache", "search", asked).stdout.split())
    assert "add --yes" in stack.run_cli("cache", "forget", asked, "--distance", "0.001").stdout
    assert "1 forgotten" in stack.run_cli("cache", "forget", asked, "--distance", "0.001", "--yes").stdout
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "miss"
    assert stack.run_cli("cache", "forget").returncode == 2


@pytest.fixture
def store(stack: Stack) -> Iterator[redis.Redis]:
    """The group's own Redis; as it was, afterwards."""
    with redis.Redis.from_url(stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"]) as client:
        memory = client.config_get("maxmemory*")
        yield client
        client.client_unpause()
        for name, value in memory.items():
            client.config_set(name, value)


def test_a_slow_redis_costs_no_more_than_its_budget(stack: Stack, store: redis.Redis) -> None:
    asked = question()
    keep(stack, asked, **WORD)
    store.client_pause(timeout=4000, all=True)
    began = time.monotonic()
    answers = [stack.ask(asked, cache=None, model=SMALL, max_tokens=4) for _ in range(5)]
    assert time.monotonic() - began < 3.5, "nobody waited for Redis to come back"
    assert set(map(outcome, answers)) == {"miss"}
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **WORD)) == "exact", 15, "it did not come back")


def test_a_redis_that_was_emptied_or_is_full_answers_nothing_wrong(stack: Stack, store: redis.Redis) -> None:
    asked = question()
    keep(stack, asked, **WORD)
    store.flushall()
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "miss"
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **WORD)) == "exact", 15, "it keeps nothing any more")
    reworded = asked.replace(":", ",")
    wait_for(
        lambda: outcome(stack.ask(reworded, cache=None, **WORD)) != "miss", 15, "the index was not made again"
    )
    store.config_set("maxmemory-policy", "noeviction")
    store.config_set("maxmemory", "1mb")
    other = question()
    for _ in range(2):
        assert outcome(stack.ask(other, cache=None, **WORD)) == "miss"
    assert outcome(stack.ask(asked, cache=None, **WORD)) in ("exact", "miss")


def test_what_was_served_is_checked_and_a_false_hit_does_not_return(stack: Stack) -> None:
    """With a cache that serves whatever is near, and checks all of it."""
    rules = ROOT / "configs" / "routing.yaml"
    text = rules.read_text()
    careless = "mode: fixed\n  distance: 0.5\n  guards: false\n  checked: 1.0"
    capital = {"model": MIDDLE, "max_tokens": 60}
    try:
        rules.write_text(text.replace("mode: certified", careless))
        assert stack.run_cli("deploy").returncode == 0
        # (Another name in each run, since vetoes are remembered.)
        begin = f"I am {uuid.uuid4().hex[:8]}. Which city is the capital of"
        italy, spain = (f"{begin} {country}? Name it only." for country in ("Italy", "Spain"))
        assert "Rome" in keep(stack, italy, **capital).json()["choices"][0]["message"]["content"]
        false = stack.ask(spain, cache=None, **capital)
        assert outcome(false) == "semantic"
        assert "Rome" in false.json()["choices"][0]["message"]["content"]
        wait_for(lambda: outcome(stack.ask(spain, cache=None, **capital)) == "exact", 20, "it was not checked")
        true = stack.ask(spain, cache=None, **capital)
        assert "Madrid" in true.json()["choices"][0]["message"]["content"]
        checks = stack.get("/cache/stats").json()["partitions"]["all"]["checks"]
        assert checks > 0
    finally:
        rules.write_text(text)
        assert stack.run_cli("deploy").returncode == 0
    assert stack.get("/cache/stats").json()["partitions"]["all"]["checks"] >= checks, "it remembers"
