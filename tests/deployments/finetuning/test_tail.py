"""A growing file of events: each one once, whatever is half-written."""

from __future__ import annotations

import json
from pathlib import Path

from configs.training import EventLog, JobEvent
from deployments.finetuning.tail import MOST_EVENTS, Tail, plain, summed_up


def numbers(events: list[JobEvent]) -> list[int]:
    return [event.seq for event in events]


def test_each_event_comes_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path, -1)
    assert tail.look() == []
    tail.seen([])
    log = EventLog(tmp_path)
    log.add("state", state="running")
    first = tail.look()
    assert numbers(first) == [0]
    assert numbers(tail.look()) == [0], "until it is kept"
    tail.seen(first)
    log.add("log", message="a")
    log.add("log", message="b")
    assert numbers(tail.look()) == [1, 2]


def test_one_who_comes_later_takes_what_is_new_to_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for _ in range(4):
        log.add("log")
    assert numbers(Tail(tmp_path, 1).look()) == [2, 3]


def test_half_a_line_is_not_there_yet_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.add("log")
    path = tmp_path / "events.jsonl"
    with path.open("a") as file:
        file.write('{"seq": 1, "at": 1, "ki')
    tail = Tail(tmp_path, -1)
    events = tail.look()
    tail.seen(events)
    assert numbers(events) == [0]
    again = EventLog(tmp_path)
    again.add("log")
    with path.open("a") as file:
        file.write("not json\n")
    again.add("log")
    assert numbers(tail.look()) == [1, 2]


def test_many_come_in_turns(tmp_path: Path) -> None:
    lines = [json.dumps({"seq": n, "at": 1.0, "kind": "log", "data": {}}) for n in range(MOST_EVENTS + 3)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    tail = Tail(tmp_path, -1)
    first = tail.look()
    tail.seen(first)
    assert numbers(first + tail.look()) == list(range(MOST_EVENTS + 3))


def test_what_postgresql_would_refuse_is_made_plain() -> None:
    value = {"loss": float("nan"), "a\x00": ["\ud800", (1, float("inf"))], "ok": "é"}
    assert plain(value) == {"loss": None, "a": ["?", [1, None]], "ok": "é"}


def test_events_say_how_far_a_job_is() -> None:
    events = [
        JobEvent(seq=0, at=1, kind="stage", data={"stage": "train"}),
        JobEvent(seq=1, at=2, kind="progress", data={"step": 1, "loss": 2.0}),
        JobEvent(seq=2, at=3, kind="evaluation", data={"step": 1, "loss": 2.5}),
        JobEvent(seq=3, at=4, kind="checkpoint", data={"step": 1, "path": "x"}),
    ]
    assert summed_up(events) == ("train", {"step": 1, "loss": 2.0, "validation_loss": 2.5, "checkpoint": 1})
    assert summed_up([]) == (None, {})


def test_a_job_says_under_which_name_it_was_published() -> None:
    published = JobEvent(seq=4, at=5, kind="state", data={"state": "succeeded", "model": "ft:small:mine-2"})
    assert summed_up([published]) == (None, {"model": "ft:small:mine-2"})
