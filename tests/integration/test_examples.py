"""An answer that somebody liked, from the endpoint to data that a model can be trained on."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import httpx

from deployments.ledger.days import day_of
from deployments.ledger.store import LedgerStore
from groupqwen.stack.deploy import http
from tests.integration.conftest import SMALL, Stack, wait_for
from train.conversation import read_conversations


def ask(stack: Stack, secret: str, text: str) -> dict[str, Any]:
    # (Its first word, so that it ends by itself whatever it says.)
    messages = [{"role": "user", "content": text}]
    body = {"model": SMALL, "messages": messages, "stop": [" "], "temperature": 0, "max_tokens": 200}
    headers = {"authorization": f"Bearer {secret}", "cache-control": "no-store"}
    answer: dict[str, Any] = (
        http().post(f"{stack.url}/chat/completions", json=body, headers=headers, timeout=120).json()
    )
    assert answer["choices"][0]["finish_reason"] == "stop", answer
    return answer


def counts(stack: Stack, secret: str) -> bool:
    headers = {"authorization": f"Bearer {secret}"}
    return http().get(f"{stack.url}/models", headers=headers, timeout=30).status_code == 200


def say(stack: Stack, secret: str, answer: dict[str, Any], **said: str) -> None:
    body = {"request_id": answer["metadata"]["request_id"], **said}
    headers = {"authorization": f"Bearer {secret}"}
    assert http().post(f"{stack.url}/feedback", json=body, headers=headers, timeout=30).json()["known"]


def examples(stack: Stack) -> dict[str, dict[str, Any]]:
    answer = stack.get("/examples")
    assert answer.headers["content-type"].startswith("application/jsonl")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    return {row["request_id"]: row for row in rows}


def test_a_liked_answer_becomes_training_data(stack: Stack) -> None:
    liked, corrected, twice = (
        ask(stack, stack.key, f"Say one word about {what}.") for what in ("salt", "sugar", "pepper")
    )
    ids = [answer["metadata"]["request_id"] for answer in (liked, corrected, twice)]
    say(stack, stack.key, liked, rating="up")
    say(stack, stack.key, corrected, correction="Sweet.\x00")
    say(stack, stack.key, twice, rating="up")
    stack.post("/feedback", {"request_id": ids[2], "rating": "up"})
    stack.post("/feedback", {"request_id": ids[2], "rating": "down"})
    wait_for(lambda: examples(stack).get(ids[2], {}).get("rating") == "down", 60, "the examples have not come")
    found = examples(stack)
    text = liked["choices"][0]["message"]["content"]
    assert found[ids[0]]["answer"] == text
    assert found[ids[0]]["messages"] == [{"role": "user", "content": "Say one word about salt."}]

    done = stack.run_cli("data", "import", "--ledger", "--name", "of-a-test")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = stack.settings.home.training / "imports"
    read = {one.id: one for one in read_conversations(folder / "of-a-test.jsonl")}
    mine = [read[f"ledger-{name}"] for name in ids]
    assert [one.rating for one in mine] == ["up", "up", "down"]
    assert mine[0].messages[-1].content == text.strip() and mine[0].model == SMALL
    assert mine[1].messages[-1].content == "Sweet."
    assert mine[1].rejected == corrected["choices"][0]["message"]["content"].strip()
    before = (folder / "of-a-test.jsonl").read_bytes()
    assert stack.run_cli("data", "import", "--ledger", "--name", "of-a-test").returncode == 0
    assert (folder / "of-a-test.jsonl").read_bytes() == before
    assert "of-a-test" in stack.run_cli("data", "list").stdout


def test_words_that_are_not_to_be_kept_are_no_example(stack: Stack) -> None:
    marked = {}
    for policy in ("hash", "none", "text"):
        key = stack.post("/keys", {"name": "of a test", "query_text": policy, "scopes": ["chat"]}).json()
        headers = {"authorization": f"Bearer {key['secret']}"}
        wait_for(partial(counts, stack, key["secret"]), 20, "the key does not count")
        answer = ask(stack, key["secret"], f"Say one word about {policy}.")
        say(stack, key["secret"], answer, rating="up")
        marked[policy] = answer["metadata"]["request_id"]
        refused = http().get(f"{stack.url}/examples", headers=headers, timeout=30)
        assert refused.status_code == 403, "what others have asked is for admins"
        http().delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers)
    wait_for(lambda: marked["text"] in examples(stack), 60, "the example has not come")
    assert not {marked["hash"], marked["none"]} & set(examples(stack))
    assert httpx.get(f"{stack.url}/examples", timeout=30).status_code == 401


async def test_examples_go_with_their_days_and_come_by_pages(stack: Stack) -> None:
    store = LedgerStore(stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"])
    await store.connect()

    def row(number: int, at: float) -> dict[str, Any]:
        said = {"rating": "up", "messages": [{"role": "user", "content": "?"}], "answer": "!", "correction": None}
        identity = {"table": "examples", "id": f"test-{number}", "at": at, "request_id": f"0000-{number:03}"}
        return {**identity, "key_id": "key_of_a_test", "variant": SMALL, **said}

    try:
        rows = [row(number, time.time() if number else 86_400.0) for number in range(120)]
        assert await store.insert(rows) == 120
        assert await store.insert(rows) == 0, "each once"
        pages = [await store.examples("0000-", 50)]
        while len(pages[-1]) == 50:
            pages.append(await store.examples(pages[-1][-1]["request_id"], 50))
        told = [one["request_id"] for page in pages for one in page]
        assert told[:120] == [f"0000-{number:03}" for number in range(120)]
        assert pages[0][0]["messages"] == rows[0]["messages"] and pages[0][0]["at"] == 86_400.0
        await store.forget_before(day_of(86_400.0 * 5))
        left = await store.examples("0000-", 1)
        assert left[0]["request_id"] == "0000-001", "that of 1970 is gone"
    finally:
        await store.pool.execute("delete from examples where key_id = 'key_of_a_test'")
        await store.close()
