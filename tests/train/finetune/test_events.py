"""Events of two processes have numbers without gaps; what a controller hears becomes events."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from ray.train import Checkpoint

from configs.training import EventLog, read_events
from train.finetune.events import ControllerEvents
from train.finetune.outcome import Told
from train.finetune.resume import keep_news, lost_news


def test_two_writers_take_turns(tmp_path: Path) -> None:
    one = EventLog(tmp_path)
    one.add("stage", stage="train")
    other = pickle.loads(pickle.dumps(one))
    for turn in range(6):
        (one, other)[turn % 2].add("log", level="info", message=str(turn))
    assert [(event.seq, event.data.get("message")) for event in read_events(tmp_path)] == [
        (0, None),
        *((turn + 1, str(turn)) for turn in range(6)),
    ]


def test_what_the_first_worker_reports_is_written(tmp_path: Path) -> None:
    heard = ControllerEvents(tmp_path)
    news = [("progress", {"step": 3, "loss": 1.0}), ("evaluation", {"step": 3, "loss": 2.0})]
    reports = [{"events": news, "step": 3}, {"events": [], "step": 3}]
    heard.after_report(None, reports, Checkpoint("/x/checkpoint_1"))
    heard.after_exception(None, {1: RuntimeError("first\nThe actor died unexpectedly")})
    events = list(read_events(tmp_path))
    assert [event.kind for event in events] == ["progress", "evaluation", "checkpoint", "log"]
    assert events[2].data == {"step": 3, "path": "checkpoint_1"}
    assert events[3].data["message"].startswith("worker 1 died")
    assert events[3].data["message"].endswith("The actor died unexpectedly")


def test_what_was_told_with_a_checkpoint_is_not_lost_with_who_writes_it_down(tmp_path: Path) -> None:
    """Ray knows of the checkpoint first: who is killed after that goes on from it, and tells no step once more."""
    checkpoint = tmp_path / "checkpoint_1"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    log = EventLog(tmp_path)
    log.add("progress", step=2, loss=3.0)
    news: list[Told] = [
        ("log", {"level": "info", "message": "once"}),
        ("progress", {"step": 3, "loss": 1.0}),
        ("progress", {"step": 4, "loss": 0.5}),
    ]
    there = ("checkpoint", {"step": 4, "path": "checkpoint_1"})
    assert lost_news(checkpoint, tmp_path) == [there], "of an older version"
    keep_news(checkpoint, news)
    assert lost_news(checkpoint, tmp_path) == [*news, there]
    heard = ControllerEvents(tmp_path)
    heard.after_report(None, [{"events": news, "step": 4}], Checkpoint(str(checkpoint)))
    assert lost_news(checkpoint, tmp_path) == []
