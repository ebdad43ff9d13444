"""A stand-in for `train.run`: what a job's process does, in the same folder and with the same words, but nothing
is learned. `python -m tests.deployments.finetuning.stand_in FOLDER`; it goes on from its last checkpoint.

The first message says what it is to do: `steps`, `pause` (seconds of each), and where it must die (`die_at`, by
SIGKILL, the first `deaths` times), fail (`fail_at`), or not hear that it is to stop (`deaf`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from configs.training import EventLog, read_events, read_spec

DONE, FAILED, STOPPED = 0, 1, 3


def run(folder: Path) -> int:
    spec, events = read_spec(folder), EventLog(folder)
    orders = orders_of(spec.dataset / "train.jsonl")
    steps, pause = int(orders.get("steps", 5)), float(orders.get("pause", 0.05))
    before = [event.data["step"] for event in read_events(folder) if event.kind == "checkpoint"]
    events.add("state", state="running")
    events.add("stage", stage="train")
    lives = sum(event.kind == "stage" and event.data["stage"] == "train" for event in read_events(folder))
    print("a stand-in: nothing is learned here", flush=True)
    for step in range(max(before, default=0) + 1, steps + 1):
        if (folder / "cancel").exists() and not orders.get("deaf"):
            events.add("checkpoint", step=step - 1, path="none")
            events.add("state", state="stopped")
            return STOPPED
        time.sleep(pause)
        if step == orders.get("die_at") and lives <= orders.get("deaths", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == orders.get("fail_at"):
            events.add("state", state="failed", error="the loss is not a number")
            return FAILED
        left = (steps - step) * pause
        events.add("progress", step=step, steps=steps, epoch=step / steps, loss=2 / step, eta_seconds=left)
        if step % 2 == 0:
            events.add("evaluation", step=step, loss=2.5 / step)
            events.add("checkpoint", step=step, path=f"storage/checkpoint-{step}")
    events.add("stage", stage="publish")
    events.add("state", state="succeeded")
    return DONE


def orders_of(path: Path) -> dict[str, Any]:
    """What stands in the first message of the first line, if it is JSON."""
    try:
        first = json.loads(path.read_text().splitlines()[0])["messages"][0]["content"]
        return dict(json.loads(first))
    except (ValueError, IndexError):
        return {}


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
