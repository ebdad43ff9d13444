"""The decision alone: `POST /v1/route` and `groupqwen route`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.classifier.learned import Embedded, load_learned
from tests.integration.conftest import LARGE, MIDDLE, SMALL, Stack, wait_for


def test_a_decision_can_be_asked_for_without_an_answer(stack: Stack) -> None:
    asked = {"messages": [{"role": "user", "content": "Write a Python function that reverses a list."}]}
    before = {name: stack.status(name)["completion_tokens"] for name in (SMALL, MIDDLE, LARGE)}
    route = stack.post("/route", asked).json()
    assert (route["variant"], route["task"]) == (LARGE, "code")
    assert "coder" in route["reason"]
    assert {candidate["variant"] for candidate in route["candidates"]} == {SMALL, MIDDLE, LARGE}
    assert [c["variant"] for c in route["candidates"] if c["passed_over"] is None] == [LARGE]
    greeting = {"messages": [{"role": "user", "content": "Hi"}]}
    phone = stack.post("/route", greeting, **{"x-groupqwen-device": "mobile"})
    assert phone.json()["device"] == "mobile"
    assert stack.post("/route", {**asked, "model": "gpt-9"}).status_code == 404
    assert stack.post("/route", {"messages": []}).status_code in (400, 422)
    assert {name: stack.status(name)["completion_tokens"] for name in before} == before, "something was generated"
    answered = stack.ask(asked["messages"][0]["content"], max_tokens=2).json()["metadata"]["route"]
    assert answered["reason"] == route["reason"]


def test_the_command_prints_the_decision(stack: Stack) -> None:
    done = stack.run_cli("route", "Translate 'good morning' into French.", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "translation goes to the translator" in done.stdout
    assert SMALL in done.stdout


def embedded(stack: Stack) -> int:
    """How many questions the cache has embedded."""
    return int(stack.get("/cache/stats").json()["embedded"])


def kept(stack: Stack) -> int:
    """How many answers it holds."""
    return int(stack.get("/cache/stats").json()["entries"])


def test_a_question_is_embedded_once(stack: Stack) -> None:
    stack.post("/cache/clear", {})
    before = embedded(stack)
    fields = {"model": SMALL, "max_tokens": 400, "cache": None, "temperature": 0.0}
    asked = stack.ask("Name the colour of grass in one word, please.", **fields)
    assert asked.json()["metadata"]["cache"] == "miss"
    # Classified, looked up and, a moment later, kept.
    wait_for(lambda: kept(stack) == 1, 60, "the answer was not kept")
    again = stack.ask("Name the colour of grass in one word, please.", **fields)
    assert again.json()["metadata"]["cache"] == "exact"
    assert embedded(stack) == before + 1, "for lookup and storing alike; an exact hit needs none"


KINDS = {"river": "What is the longest river of land number {}?", "sum": "What do {} and 17 make together?"}


@pytest.fixture()
def learned_by_embedding(stack: Stack, tmp_path: Path) -> Iterator[None]:
    """An artifact that the command has learned from outcomes: the smallest knows rivers, the middle one sums."""
    lines = [
        {"question": text.format(number), "model": model, "correct": int((kind == "river") == (model == SMALL))}
        for number in range(100)
        for kind, text in KINDS.items()
        for model in (SMALL, MIDDLE)
    ]
    path = tmp_path / "outcomes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    artifact = stack.settings.home.router
    try:
        done = stack.run_cli("router", "train", "--from", str(path), "--force", COLUMNS="200")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Questions are read as text" in done.stdout
        # The text alone would do here; so that the embedding must be asked for, it gets a part that says nothing.
        found = load_learned(artifact)
        silent = Embedded(np.zeros((2, 384), np.float32), np.zeros(2, np.float32), found.knots)
        about = {**found.about, "embedder": stack.settings.profile.embedder}
        replace(found, embedded=found.embedded or silent, about=about).save(artifact)
        assert stack.run_cli("deploy").returncode == 0
        yield
    finally:
        artifact.unlink(missing_ok=True)
        assert stack.run_cli("deploy").returncode == 0


def test_a_decision_that_reads_the_embedding_takes_the_lookups(stack: Stack, learned_by_embedding: None) -> None:
    stack.post("/cache/clear", {})
    before = embedded(stack)
    fields: dict[str, Any] = {"max_tokens": 400, "cache": None}
    question = "Name the longest river of France in one word, please."
    about = stack.ask(question, **fields).json()["metadata"]
    assert (about["cache"], about["variant"]) == ("miss", SMALL)
    expected = {one["variant"]: one["correct"] for one in about["route"]["candidates"]}
    assert expected[SMALL] > expected[MIDDLE]
    wait_for(lambda: kept(stack) == 1, 60, "the answer was not kept")
    assert stack.ask(question, **fields).json()["metadata"]["cache"] == "exact"
    assert embedded(stack) == before + 1, "for lookup, decision and storing alike"
    assert stack.ask(question, **{**fields, "cache": "no-cache"}).json()["metadata"]["cache"] == "miss"
    assert embedded(stack) == before + 2, "without a lookup it is made once too"
    assert stack.ask(question, **{**fields, "model": SMALL, "cache": "no-store"}).status_code == 200
    assert embedded(stack) == before + 2, "a named variant needs none"
    decided = stack.post("/route", {"messages": [{"role": "user", "content": question}]}).json()
    assert (decided["variant"], embedded(stack)) == (SMALL, before + 3)
