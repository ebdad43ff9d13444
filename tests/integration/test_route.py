"""The decision alone: `POST /v1/route` and `groupqwen route`."""

from __future__ import annotations

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


def test_a_question_is_embedded_once(stack: Stack) -> None:
    def embedded() -> int:
        return int(stack.get("/cache/stats").json()["embedded"])

    before = embedded()
    fields = {"model": SMALL, "max_tokens": 400, "cache": None, "temperature": 0.0}
    asked = stack.ask("Name the colour of grass in one word, please.", **fields)
    assert asked.json()["metadata"]["cache"] == "miss"
    # Classified, looked up and, a moment later, kept.
    wait_for(
        lambda: (
            stack.ask("Name the colour of grass in one word, please.", **fields).json()["metadata"]["cache"]
            == "exact"
        ),
        20,
        "the answer was not kept",
    )
    assert embedded() == before + 1, "for lookup and storing alike; an exact hit needs none"
