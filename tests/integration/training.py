"""Jobs on the real stack whose process is a stand-in (tests/deployments/finetuning/stand_in.py)."""

from __future__ import annotations

import json
from typing import Any

from configs.training import JobEvent
from groupqwen.training.jobs import follow_events
from tests.integration.conftest import SMALL, Stack, wait_for

QUICK = {"steps": 4, "pause": 0.02}
LONG = {"steps": 4000, "pause": 0.2}


def lines_of(orders: dict[str, Any]) -> bytes:
    """A file to learn from whose first message says what the stand-in is to do."""
    messages = [{"role": "user", "content": json.dumps(orders)}, {"role": "assistant", "content": "Yes."}]
    return (json.dumps({"messages": messages}) + "\n").encode()


def upload(stack: Stack, **orders: Any) -> str:
    """The file's id."""
    made = stack.client().files.create(file=("chats.jsonl", lines_of(orders)), purpose="fine-tune")
    return made.id


def begin(stack: Stack, **orders: Any) -> str:
    """Start a job; its id."""
    body = {"base": SMALL, "name": "habit", "training_file": upload(stack, **orders)}
    answer = stack.post("/finetune/start", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def about(stack: Stack, job: str) -> dict[str, Any]:
    return dict(stack.get(f"/finetune/{job}").json())


def wait_for_step(stack: Stack, job: str, step: int, seconds: float = 60) -> None:
    wait_for(lambda: (about(stack, job)["progress"]["step"] or 0) >= step, seconds, lambda: f"{about(stack, job)}")


def wait_for_end(stack: Stack, job: str, seconds: float = 60) -> dict[str, Any]:
    """How it is then."""
    over = ("succeeded", "failed", "cancelled")
    wait_for(lambda: about(stack, job)["state"] in over, seconds, lambda: f"{about(stack, job)}")
    return about(stack, job)


def cancel(stack: Stack, job: str) -> dict[str, Any]:
    """Have it stop, and wait until it has."""
    assert stack.post(f"/finetune/{job}/cancel", {}).status_code == 200
    return wait_for_end(stack, job)


def told(stack: Stack, job: str) -> list[tuple[str, dict[str, Any]]]:
    """All that its stream of events says of a job that has ended."""
    return list(follow_events(stack.url, stack.key, job))


def written(stack: Stack, job: str) -> list[JobEvent]:
    """What is in its folder."""
    path = stack.settings.home.training / "jobs" / job / "events.jsonl"
    return [JobEvent.model_validate_json(line) for line in path.read_text().splitlines()]
