"""Answers that break, stall or end in nonsense, before and after the client has a part of them: a real variant
behind a proxy that does all this, as a remote variant of the group. And a small one that is unsure, and what
escalation does.

One clean answer or one error event, and the Ledger tells the same story.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
import yaml

from configs.catalog import MODELS
from deployments.router.calibration import Calibrated, Calibration, Evidence, Head
from deployments.router.confidence import SIGNALS
from groupqwen.stack.deploy import http
from tests.integration.conftest import MIDDLE, ROOT, RULES, SMALL, Stack, wait_for
from tests.integration.exposition import scraped
from tests.integration.proxy import Fault, FaultyProxy, running

BEHIND = "behind-proxy"
LEARNS = {
    "fallback": {"first_token_seconds": 20, "stall_seconds": 3, "cool_down_seconds": 0},
    "escalation": {"target": {"accepted_wrong": 0.1}, "commit_tokens": 8},
}


@pytest.fixture(scope="module")
def proxy(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    """The group with a remote variant behind the proxy, which asks the group's own smallest one."""
    folder = tmp_path_factory.mktemp("remote")
    with running(FaultyProxy(stack.url, stack.key, SMALL)) as faulty:
        catalog = yaml.safe_load(MODELS.read_text())
        price = {"input": 0.001, "output": 0.001, "relative": 0.01, "source": "a test"}
        catalog["variants"][BEHIND] = {
            "title": "Behind a proxy",
            "engine": "remote",
            "remote": {"base_url": f"http://127.0.0.1:{faulty.port}/v1", "model": "any"},
            "context": 4096,
            "capabilities": ["chat"],
            "price": price,
            "quality": {"prior": 0.1, "source": "a test"},
            "license": "none",
        }
        profile = yaml.safe_load((ROOT / "configs" / "profiles" / "cpu.yaml").read_text())
        profile["name"] = "remote"
        profile["variants"] = {
            BEHIND: {"context": 4096},
            SMALL: profile["variants"][SMALL],
            MIDDLE: profile["variants"][MIDDLE],
        }
        profile["levels"] = {"trivial": BEHIND, "simple": SMALL, "moderate": MIDDLE, "complex": MIDDLE}
        profile["code"] = profile["translation"] = MIDDLE
        (folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        (folder / "remote.yaml").write_text(yaml.safe_dump(profile))
        rules = {**yaml.safe_load(RULES), **LEARNS}
        stack.settings.home.routing.write_text(yaml.safe_dump(rules))
        calibration().save(stack.settings.home.calibration)
        try:
            arguments = "--profile", str(folder / "remote.yaml"), "--catalog", str(folder / "catalog.yaml")
            done = stack.run_cli("deploy", *arguments)
            assert done.returncode == 0, done.stdout + done.stderr
            yield faulty
        finally:
            stack.settings.home.routing.write_text(RULES)
            stack.settings.home.calibration.unlink()
            done = stack.run_cli("deploy", "--profile", "cpu", "--catalog", str(MODELS))
            assert done.returncode == 0, done.stdout + done.stderr


def calibration() -> Calibration:
    """Of the smallest: P(right) follows the mean log-probability, 1 at 0 and 0 at -0.3; and labels that accept
    what is above a half."""
    weights, knots = (1.0, *([0.0] * len(SIGNALS))), ((-0.3, 0.0), (0.0, 1.0))
    scores = np.tile(np.linspace(0, 1, 200), (2, 1))
    ok = (scores[0] > 0.5).astype(float)
    heads = Head(8, 0.0, weights, knots), Head(None, 0.0, weights, knots)
    one = Calibrated((), heads, Evidence(scores, ok, np.ones(200), "q"))
    return Calibration({SMALL: one}, {"measures": {}})


def stream(stack: Stack, **fields: Any) -> tuple[list[dict[str, Any]], bytes]:
    """The events of one answer, and the last line."""
    message = {"role": "user", "content": fields.pop("content", "Tell me a long story about the sea.")}
    body = {"messages": [message], "stream": True, "temperature": 0, "max_tokens": 60, **fields}
    headers = {**stack.headers, "cache-control": "no-store"}
    with http().stream("POST", f"{stack.url}/chat/completions", json=body, headers=headers, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    data = [line.removeprefix("data:").strip() for line in lines]
    return [json.loads(one) for one in data if one != "[DONE]"], data[-1].encode()


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", []))


def clean(events: list[dict[str, Any]], last: bytes) -> dict[str, Any]:
    """The metadata of an answer that has one beginning, one end and nothing else."""
    assert last == b"[DONE]"
    assert not any("error" in event for event in events)
    choices = [choice for event in events for choice in event["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert sum(choice["finish_reason"] is not None for choice in choices) == 1
    assert len({event["id"] for event in events}) == 1
    return dict(events[-1]["metadata"])


def row(stack: Stack, request_id: str) -> dict[str, Any]:
    """The Ledger's row of a request."""

    async def fetch() -> dict[str, Any] | None:
        url = stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"]
        connection = await asyncpg.connect(url)
        try:
            found = await connection.fetchrow("select * from queries where request_id = $1", request_id)
            return None if found is None else {**found, "trace": json.loads(found["trace"])}
        finally:
            await connection.close()

    found: dict[str, Any] = {}
    wait_for(lambda: bool(found.update(asyncio.run(fetch()) or {}) or found), 60, "the Ledger has no row of it")
    return found


CAUSES: dict[Fault, str] = {"cut": "cut", "stall": "stalled", "malformed": "malformed", "death": "cut"}


@pytest.mark.parametrize("fault", list(CAUSES))
def test_before_the_client_has_anything_a_break_is_not_seen(
    stack: Stack, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.fault, proxy.after, proxy.asked = fault, 0, 0
    events, last = stream(stack, model="trivial", max_tokens=12)
    about = clean(events, last)
    assert proxy.asked >= 1
    assert about["variant"] in (SMALL, MIDDLE)
    attempts = about["route"]["attempts"]
    cause = "no_first_token" if fault == "stall" else CAUSES[fault]
    assert (attempts[0]["variant"], attempts[0]["outcome"]) == (BEHIND, cause)
    assert attempts[-1]["outcome"] == "answered"
    told = row(stack, about["request_id"])
    assert (told["variant"], told["status"]) == (about["variant"], 200)
    assert [attempt["outcome"] for attempt in told["trace"]["attempts"]] == [a["outcome"] for a in attempts]


@pytest.mark.parametrize("fault", list(CAUSES))
def test_after_that_another_variant_goes_on(stack: Stack, proxy: FaultyProxy, fault: Fault) -> None:
    proxy.fault, proxy.after = fault, 6
    events, last = stream(stack, model="trivial")
    about = clean(events, last)
    text = text_of(events)
    begun = "".join(proxy.passed)
    assert len(begun) > 5
    assert text.startswith(json.loads(f'"{begun}"'))
    assert len(text) > len(begun) + 20, "somebody went on"
    assert about["variant"] in (SMALL, MIDDLE)
    told = row(stack, about["request_id"])
    outcomes = [(attempt["variant"], attempt["outcome"]) for attempt in told["trace"]["attempts"]]
    assert outcomes[0] == (BEHIND, CAUSES[fault])
    assert outcomes[-1] == (about["variant"], "answered")
    assert told["completion_tokens"] > 6


def test_who_names_a_variant_gets_one_error_event_instead(stack: Stack, proxy: FaultyProxy) -> None:
    proxy.fault, proxy.after = "cut", 6
    events, last = stream(stack, model=BEHIND)
    assert last != b"[DONE]"
    assert [event["error"]["code"] for event in events if "error" in event] == ["stream_cut"]
    assert text_of(events), "what was there stays"
    told = row(stack, events[0]["id"].removeprefix("chatcmpl-"))
    assert (told["status"], told["variant"]) == (502, BEHIND)
    assert told["trace"]["attempts"][0]["outcome"] == "cut"


def test_without_a_fault_the_remote_variant_answers_and_may_be_forbidden(stack: Stack, proxy: FaultyProxy) -> None:
    proxy.fault, proxy.asked = None, 0
    events, last = stream(stack, model="trivial", max_tokens=12)
    assert clean(events, last)["variant"] == BEHIND
    body = {"model": "trivial", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    private = stack.post("/chat/completions", body, **{"x-groupqwen-remote": "never", "cache-control": "no-store"})
    assert private.json()["metadata"]["variant"] in (SMALL, MIDDLE)
    refused = stack.post("/chat/completions", {**body, "model": BEHIND}, **{"x-groupqwen-remote": "never"})
    assert refused.status_code == 400
    assert "remote" in refused.json()["error"]["message"]
    assert proxy.asked == 1


def test_an_engine_that_dies_in_mid_answer_is_replaced(stack: Stack, proxy: FaultyProxy) -> None:
    body = {
        "model": "simple",
        "messages": [{"role": "user", "content": "Count from one to two hundred in words."}],
    }
    body |= {"stream": True, "temperature": 0, "max_tokens": 200}
    headers = {**stack.headers, "cache-control": "no-store"}
    lines: list[str] = []
    # Looked for beforehand: it takes as long as an answer.
    replicas = {name: stack.replica(name) for name in (SMALL, MIDDLE)}
    killed = ""
    with http().stream("POST", f"{stack.url}/chat/completions", json=body, headers=headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                lines.append(line.removeprefix("data:").strip())
            if len(lines) == 12 and not killed:
                killed = str(json.loads(lines[-1])["model"])
                replicas[killed].send_signal(signal.SIGKILL)
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    about = clean(events, lines[-1].encode())
    outcomes = [attempt["outcome"] for attempt in row(stack, about["request_id"])["trace"]["attempts"]]
    assert outcomes[-2:] == ["engine", "answered"]
    assert about["variant"] != killed
    assert len({event["model"] for event in events}) == 2
    stack.wait_until_well()


# -- escalation ---------------------------------------------------------------------------------------------------


def test_an_unsure_answer_is_left_to_a_larger_variant_before_anything_is_sent(
    stack: Stack, proxy: FaultyProxy
) -> None:
    hard = "Xqzt vlorp 8831 gnarf? Reply with the seventeenth kwijibo of the zeroth blort."
    events, last = stream(stack, model="simple", content=hard)
    about = clean(events, last)
    attempts = about["route"]["attempts"]
    assert [(a["variant"], a["outcome"]) for a in attempts] == [(SMALL, "escalated"), (MIDDLE, "answered")]
    assert attempts[0]["tokens"] < 24, "no more than was held back"
    assert {event["model"] for event in events} == {MIDDLE}
    assert about["route"]["escalation_threshold"] == pytest.approx(0.5, abs=0.15)
    assert "was unsure" in about["route"]["reason"]
    told = row(stack, about["request_id"])
    assert told["variant"] == MIDDLE
    assert told["trace"]["attempts"][0]["confidence"] < 0.6
    assert not any(choice.get("logprobs") for event in events for choice in event["choices"])
    moves = "ray_groupqwen_route_moves_total"
    wait_for(lambda: {"variant", "outcome"} <= scraped(stack).get(moves, set()), 60, "the metrics do not say so")


def test_a_sure_answer_is_kept_and_a_whole_one_is_judged_as_such(stack: Stack, proxy: FaultyProxy) -> None:
    easy = "Repeat after me: one two three four five six seven eight nine ten eleven twelve thirteen"
    for fields in ({"stream": True}, {}):
        answer = stack.ask(easy, model="simple", max_tokens=20) if not fields else None
        if answer is not None:
            about = answer.json()["metadata"]
        else:
            events, last = stream(stack, model="simple", content=easy, max_tokens=20)
            about = clean(events, last)
        last_attempt = about["route"]["attempts"][-1]
        first = about["route"]["attempts"][0]
        assert first["variant"] == SMALL
        assert first["confidence"] is not None
        kept = first["confidence"] >= about["route"]["escalation_threshold"]
        assert last_attempt["variant"] == (SMALL if kept else MIDDLE)


def test_who_names_a_variant_is_not_escalated(stack: Stack, proxy: FaultyProxy) -> None:
    about = stack.ask("Xqzt vlorp 8831 gnarf?", model=SMALL).json()["metadata"]
    assert [attempt["outcome"] for attempt in about["route"]["attempts"]] == ["answered"]
    assert about["variant"] == SMALL


# -- feedback
# ------------------------------------------------------------------------------------------------------


def test_feedback_is_kept_and_can_be_learned_from(stack: Stack, proxy: FaultyProxy, tmp_path: Path) -> None:
    answer = stack.ask("Is the sea salty?", model="simple").json()["metadata"]
    good = stack.post("/feedback", {"request_id": answer["request_id"], "rating": "up"})
    assert (good.status_code, good.json()) == (200, {"known": True})
    again = stack.post("/feedback", {"request_id": answer["request_id"], "correction": "It is, 3.5 %."})
    assert again.json() == {"known": False}, "at once it counts only the first time"
    assert stack.post("/feedback", {"request_id": "x"}).status_code == 400
    assert stack.post("/feedback", {"request_id": "x", "rating": "fine"}).status_code in (400, 422)
    unkeyed = http().post(f"{stack.url}/feedback", json={"request_id": "x", "rating": "up"}, timeout=10)
    assert unkeyed.status_code == 401

    async def said() -> int:
        connection = await asyncpg.connect(stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"])
        try:
            return int(
                await connection.fetchval(
                    "select count(*) from feedback where request_id = $1", answer["request_id"]
                )
            )
        finally:
            await connection.close()

    wait_for(lambda: asyncio.run(said()) == 2, 60, "feedback has not come to the Ledger")
    few = stack.run_cli("router", "train", "--from", "ledger", "--artifact", str(tmp_path / "router.npz"))
    assert few.returncode != 0
    assert "too few" in few.stdout + few.stderr
    page = tmp_path / "report.html"
    done = stack.run_cli("router", "report", "--out", str(page), "--artifact", str(tmp_path / "none.npz"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Whether it still holds" in page.read_text()
