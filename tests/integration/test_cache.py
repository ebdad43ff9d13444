"""The cache as users meet it: one answer for many, what is bad does not come back, what is forgotten is gone."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import redis
import yaml

from deployments.ledger.store import LedgerStore
from serve_app.keys import hash_key, read_keys
from tests.integration.conftest import MIDDLE, NO_END, ROOT, RULES, SMALL, Stack, wait_for

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
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **fields)) == "exact", 20, "it was not kept")
    return first


def entries(stack: Stack, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.get(f"/cache/entries?{urlencode(parameters)}").json()["entries"]
    return found


def test_sixty_four_that_ask_the_same_at_once_are_answered_once(stack: Stack) -> None:
    asked = f"Write four sentences about the letter {uuid.uuid4().hex[:6]}."
    # (Long enough that all are there before it ends, on a machine that has other things to do as well; where Redis
    # is late by that, those who ask are answered once all the same.)
    long = {"model": SMALL, "max_tokens": 400, "logit_bias": NO_END}
    before = stack.status(SMALL)["completion_tokens"]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: stack.ask(asked, cache=None, **long), range(64)))
    seen = Counter(map(outcome, answers))
    assert seen["miss"] == 1
    assert seen["coalesced"] >= 32, "(one that came late may find the answer kept)"
    assert sum(seen.values()) == seen["miss"] + seen["coalesced"] + seen["exact"] == 64
    bodies = [answer.json() for answer in answers]
    assert len({body["choices"][0]["message"]["content"] for body in bodies}) == 1
    assert len({body["id"] for body in bodies}) == 64, "each is an answer to its own request"
    assert stack.status(SMALL)["completion_tokens"] - before == bodies[0]["usage"]["completion_tokens"]


def test_also_while_redis_says_nothing(stack: Stack) -> None:
    asked = f"Write four sentences about the number {uuid.uuid4().hex[:6]}."
    long = {"model": SMALL, "max_tokens": 400, "logit_bias": NO_END}
    silent = stack.processes("redis-server")[0]
    before = stack.status(SMALL)["completion_tokens"]
    silent.suspend()
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: stack.ask(asked, cache=None, **long), range(8)))
    finally:
        silent.resume()
    assert Counter(map(outcome, answers)) == {"miss": 1, "coalesced": 7}
    assert stack.status(SMALL)["completion_tokens"] - before == answers[0].json()["usage"]["completion_tokens"]


def endless() -> dict[str, Any]:
    """A request that is at work for seconds: its end-of-turn tokens are forbidden."""
    asked = [{"role": "user", "content": f"Count to forty, {uuid.uuid4().hex[:6]}."}]
    return {
        "messages": asked,
        **{"model": SMALL, "max_tokens": 600, "temperature": 0, "stream": True, "logit_bias": NO_END},
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
        wait_for(lambda: stack.get("/cache/stats").json()["outcomes"]["coalesced"] > before, 40, "nobody joined")
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
    wait_for(lambda: stack.status(SMALL)["cancelled"] > before, 40, "it went on for nobody")
    wait_for(lambda: stack.status(SMALL)["active"] == 0, 40, "its slot was not freed")


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


def test_what_is_kept_goes_into_a_file_and_back_and_answers_by_hand_stay(stack: Stack, tmp_path: Path) -> None:
    asked, by_hand = question(), question()
    keep(stack, asked, **WORD)
    file = tmp_path / "entries.jsonl"
    assert stack.run_cli("cache", "export", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    mine = [line for line in file.read_text().splitlines() if asked in line]
    assert len(mine) == 1
    stack.run_cli("cache", "forget", asked, "--distance", "0.001", "--yes")
    assert outcome(stack.ask(asked, cache="no-cache", model=SMALL, max_tokens=1)) == "miss"
    row = {"query": by_hand, "answer": "Blue.", "model": MIDDLE, "knowledge": "garden@1"}
    file.write_text("\n".join([*mine, json.dumps(row)]))
    done = stack.run_cli("cache", "import", str(file))
    assert done.returncode == 0 and "2 answers" in done.stdout, done.stdout + done.stderr
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "exact"
    body = {
        "model": MIDDLE,
        "messages": [{"role": "user", "content": by_hand}],
        "metadata": {"knowledge": "garden@1"},
    }
    served = stack.post("/chat/completions", body)
    assert outcome(served) == "exact"
    assert served.json()["choices"][0]["message"]["content"] == "Blue."
    other = stack.post("/chat/completions", {**body, "metadata": {"knowledge": "garden@2"}, "max_tokens": 3})
    assert outcome(other) == "miss", "of another version"
    [entry] = entries(stack, knowledge="garden@1")
    assert entry["pinned"] and entry["expires_in_seconds"] is None
    assert "pinned" in stack.run_cli("cache", "search", by_hand).stdout
    assert "1 forgotten" in stack.run_cli("cache", "forget", "--knowledge", "garden@1", "--yes").stdout
    damaged = {'{"query": "x"}': "line 1", '{"key": "1", "seal": "other"}': "another key", "nonsense": "line 1"}
    for wrong, said in damaged.items():
        file.write_text(wrong)
        refused = stack.run_cli("cache", "import", str(file))
        assert refused.returncode == 1 and said in " ".join(refused.stdout.split())


def test_an_entry_is_pinned(stack: Stack) -> None:
    asked = question()
    keep(stack, asked, **WORD)
    [entry] = entries(stack, query=asked, limit=1)
    assert not entry["pinned"]
    assert "1 pinned" in stack.run_cli("cache", "pin", entry["id"]).stdout
    assert entries(stack, query=asked, limit=1)[0]["pinned"]
    stack.ask(asked, cache="no-cache", **WORD)
    assert entries(stack, query=asked, limit=1)[0]["pinned"], "an answer that was asked for anew does not unpin it"
    assert stack.post("/cache/pin", {"ids": ["f" * 40]}).json() == {"pinned": 0}
    assert stack.post("/cache/pin", {"ids": ["../x"]}).status_code == 400
    assert stack.post("/cache/forget", {"ids": [entry["id"]]}).json()["deleted"] == 1


def test_what_was_asked_often_is_asked_beforehand(stack: Stack) -> None:
    asked = question()
    for _ in range(3):
        stack.post("/chat/completions", {"messages": [{"role": "user", "content": asked}], "max_tokens": 2})
    wait_for(lambda: asked in most_asked(stack), 60, "the Ledger has no such question")
    stack.run_cli("cache", "forget", asked, "--distance", "0.001", "--yes")
    first = most_asked(stack)[0]
    body = {"messages": [{"role": "user", "content": first}]}
    stack.run_cli("cache", "forget", first, "--distance", "0.001", "--yes")
    done = stack.run_cli("cache", "warm", "--top", "1")
    assert done.returncode == 0 and "1 questions asked" in done.stdout, done.stdout + done.stderr
    assert outcome(stack.post("/chat/completions", body)) in ("exact", "miss"), "(an unsure answer is not kept)"


def most_asked(stack: Stack) -> list[str]:
    """By the owner's key."""
    [owner] = [key.id for key in read_keys(stack.settings.home.keys) if key.sha256 == hash_key(stack.key)]

    async def found() -> list[str]:
        store = LedgerStore(stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"])
        await store.connect()
        try:
            assert await store.most_asked("key_of_nobody", 1000) == []
            return await store.most_asked(owner, 1000)
        finally:
            await store.close()

    return asyncio.run(found())


def test_redis_holds_no_word_of_what_was_asked_or_answered(stack: Stack, store: redis.Redis) -> None:
    asked = question()
    mark = asked.split()[-2].encode()
    keep(stack, asked, **WORD)
    held = [name + (store.dump(name) or b"") for name in store.scan_iter("gq:*", count=1000)]
    assert len(held) > 5
    assert not any(mark in one for one in held)


def test_what_is_promised_is_seen_by_prometheus(stack: Stack) -> None:
    def seen() -> bool:
        text = stack.get("/metrics").text
        return all(f"groupqwen_cache_{name}" in text for name in ("threshold", "wrong_per_request_bound", "bytes"))

    wait_for(seen, 60, "the metrics say nothing of the cache")


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
    store.client_pause(timeout=15_000, all=True)
    began = time.monotonic()
    answers = [stack.ask(asked, cache=None, model=SMALL, max_tokens=4) for _ in range(5)]
    assert time.monotonic() - began < 13, "nobody waited for Redis to come back"
    assert set(map(outcome, answers)) == {"miss"}
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **WORD)) == "exact", 60, "it did not come back")


def test_a_redis_that_was_emptied_or_is_full_answers_nothing_wrong(stack: Stack, store: redis.Redis) -> None:
    asked = question()
    keep(stack, asked, **WORD)
    store.flushall()
    assert outcome(stack.ask(asked, cache=None, **WORD)) == "miss"
    wait_for(lambda: outcome(stack.ask(asked, cache=None, **WORD)) == "exact", 60, "it keeps nothing any more")
    reworded = asked.replace(":", ",")
    wait_for(
        lambda: outcome(stack.ask(reworded, cache=None, **WORD)) != "miss", 60, "the index was not made again"
    )
    store.config_set("maxmemory-policy", "noeviction")
    store.config_set("maxmemory", "1mb")
    other = question()
    for _ in range(2):
        assert outcome(stack.ask(other, cache=None, **WORD)) == "miss"
    assert outcome(stack.ask(asked, cache=None, **WORD)) in ("exact", "miss")


def rules(changed: str, before: str = "mode: certified") -> str:
    """The cache by these rules, in place of those before."""
    assert before in RULES
    return RULES.replace(before, changed)


def test_what_was_served_is_checked_and_a_false_hit_does_not_return(stack: Stack) -> None:
    """With a cache that serves whatever is near, and checks all of it."""
    capital = {"model": MIDDLE, "max_tokens": 60}
    with stack.served_by(rules("mode: fixed\n  distance: 0.5\n  guards: false\n  checked: 1.0")):
        # (Another name in each run, since vetoes are remembered.)
        begin = f"I am {uuid.uuid4().hex[:8]}. Which city is the capital of"
        italy, spain = (f"{begin} {country}? Name it only." for country in ("Italy", "Spain"))
        assert "Rome" in keep(stack, italy, **capital).json()["choices"][0]["message"]["content"]
        false = stack.ask(spain, cache=None, **capital)
        assert outcome(false) == "semantic"
        assert "Rome" in false.json()["choices"][0]["message"]["content"]
        wait_for(lambda: outcome(stack.ask(spain, cache=None, **capital)) == "exact", 60, "it was not checked")
        true = stack.ask(spain, cache=None, **capital)
        assert "Madrid" in true.json()["choices"][0]["message"]["content"]
        checks = stack.get("/cache/stats").json()["partitions"]["all"]["checks"]
        assert checks > 0
    assert stack.get("/cache/stats").json()["partitions"]["all"]["checks"] >= checks, "it remembers"


def test_a_doubtful_question_is_verified_and_its_answer_judged(stack: Stack) -> None:
    """By a cache that is sure of nothing, and a verifier that is believed whatever it says."""
    doubts = "mode: calibrated\n  likely: 1\n  doubtful: 0\n  strict_distance: 0"
    asks = f"verifier: {SMALL}\n  verified: 0\n  verify_ms: 800\n  judge: {MIDDLE}\n  checked: 1.0"
    with stack.served_by(rules(f"{doubts}\n  {asks}")):
        asked = question()
        keep(stack, asked, **WORD)
        # (A verifier that was late has said no, and the answer to that wording is kept: the next one is another.)
        wordings = (asked.replace(":", "".join(marks)) for marks in product(",;.!-", repeat=2))
        verified = ""

        def is_verified() -> bool:
            nonlocal verified
            verified = next(wordings)
            return outcome(stack.ask(verified, cache=None, **WORD)) == "semantic"

        wait_for(is_verified, 60, "no verifier has said yes in time")
        stats = stack.get("/cache/stats").json()
        [(kind, before)] = stats["verifier"].items()
        assert set(before) == {"labels", "wrong", "per_request"}
        wait_for(lambda: outcome(stack.ask(verified, cache=None, **WORD)) == "exact", 60, "not checked")
        assert stack.get("/cache/stats").json()["verifier"][kind]["labels"] > before["labels"]
        assert f"The verifier, {kind}:" in stack.run_cli("cache", "stats").stdout


def test_what_is_stale_serves_while_it_is_asked_anew(stack: Stack) -> None:
    ages = ", ".join(f"{task}: 600" for task in ("chat", "reasoning", "extraction", "choice"))
    with stack.served_by(rules(f"ttl_seconds: 1\n  stale: {{{ages}}}", "ttl_seconds: 3600")):
        asked = question()
        keep(stack, asked, **WORD)
        time.sleep(2)
        stale = stack.ask(asked, cache=None, **WORD)
        assert outcome(stale) == "exact" and int(stale.headers["age"]) >= 2

        def age(otherwise: int) -> int:
            # (A Redis that is late here is a miss.)
            return int(stack.ask(asked, cache=None, **WORD).headers.get("age", otherwise))

        before = age(2)
        wait_for(lambda: age(before) < before, 60, "it was not asked for anew")


def test_p_of_the_same_answer_is_learned_from_labelled_pairs(stack: Stack, tmp_path: Path) -> None:
    topics = yaml.safe_load((ROOT / "benchmarks" / "data" / "cache_traps.yaml").read_text())
    rows = [
        {"a": asked, "b": topic["question"], "same": same}
        for topic in topics
        for same, others in ((1, topic["same"]), (0, [one for _, one in topic["other"]]))
        for asked in others
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    target = stack.settings.home.cache_likeness
    try:
        done = stack.run_cli("cache", "calibrate", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(rows)} pairs" in done.stdout
        assert set(json.loads(target.read_text())) == {"embedder", "pairs", "weights"}
        assert stack.run_cli("cache", "explain", "Is 3 prime?", "Is three prime?").returncode == 0
        file.write_text(json.dumps(rows[0]))
        few = stack.run_cli("cache", "calibrate", str(file))
        assert few.returncode == 1 and "at least" in few.stdout
    finally:
        target.unlink(missing_ok=True)
