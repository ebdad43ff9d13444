"""The cascade on the running group: recorded answers of every variant, a calibration of one half of the questions,
and the other half asked through the endpoint, always the largest and the cascade in turn."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt
import yaml
from rich.progress import Progress

from benchmarks.cascade_record import record
from benchmarks.load import Answer, ask, median, percentile
from benchmarks.load import Target as Endpoint
from benchmarks.machine import console, show
from benchmarks.questions import Question, sample
from benchmarks.routing import DATA
from configs.escalation import Target
from configs.home import home
from configs.routing import load_routing
from deployments.classifier.training import Outcomes, learn
from deployments.router.calibrating import calibrate
from groupqwen.answer_log import Log, read_log
from groupqwen.client import endpoint_and_key

VARIANTS = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
SEED = 0
CLIENTS = 2
BLOCK = 20
POLICIES = {"always the largest": VARIANTS[-1], "cascade": "trivial", "learned + cascade": "auto"}
"""Each with the `model` that is asked: the level `trivial` begins with the smallest."""


@dataclass(frozen=True)
class Asked:
    """One question by one policy."""

    question: Question
    answer: Answer
    right: bool


def recorded() -> Path:
    """The log of the running group, made where it is not there yet."""
    path = home().root / "benchmarks" / "cascade.jsonl"
    record(sample(DATA), list(VARIANTS), path)
    return path


def main(path: Path, target: Target, most: int) -> None:
    """Calibrate on one half, ask the other (at most so many questions), and put everything back as it was."""
    log = read_log(path, VARIANTS)
    order = np.random.default_rng(SEED).permutation(len(log.questions))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    by_text = {question.text.strip(): question for question in sample(DATA)}
    questions = [by_text[log.questions[int(row)]] for row in test[:most]]
    files = home().calibration, home().router, home().routing
    kept = {file: file.read_bytes() if file.is_file() else None for file in files}
    try:
        _learn(log, train)
        home().routing.write_text(yaml.safe_dump(_with_target(target), sort_keys=False))
        _deploy()
        asked = asyncio.run(_ask_all(questions))
    finally:
        for file, content in kept.items():
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)
        _deploy()
    report(asked, target)


def _learn(log: Log, train: npt.NDArray[np.intp]) -> None:
    """What the Router loads: from the first half alone."""
    right = {name: log.ok[name][train] for name in log.models}
    learned = learn(Outcomes([log.questions[row] for row in train], right))
    learned.save(home().router)
    answers = {name: log.labelled(name, train) for name in log.models[:-1]}
    calibrate(answers).save(home().calibration)


def _with_target(target: Target) -> dict[str, object]:
    rules = load_routing().model_dump(mode="json", exclude_none=True)
    rules["escalation"]["target"] = target.model_dump(exclude_none=True)
    return dict(rules)


def _deploy() -> None:
    command = [sys.executable, "-m", "groupqwen.cli", "deploy"]
    subprocess.run(command, check=True, env=dict(os.environ), stdout=subprocess.DEVNULL)


async def _ask_all(questions: Sequence[Question]) -> dict[str, list[Asked]]:
    """Every question by every policy."""
    url, key = endpoint_and_key()
    asked: dict[str, list[Asked]] = {name: [] for name in POLICIES}
    # In blocks, one policy after the other: all meet the same machine, and none finds another's prompt in a prefix
    # cache, which holds fewer questions than a block.
    blocks = [questions[start : start + BLOCK] for start in range(0, len(questions), BLOCK)]
    waiting = [(question, name) for block in blocks for name in POLICIES for question in block][::-1]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        with Progress(console=console) as progress:
            task = progress.add_task("asking", total=len(waiting))

            async def client() -> None:
                while waiting:
                    question, name = waiting.pop()
                    target = Endpoint(name, url, POLICIES[name], key, {"cache-control": "no-store"})
                    message = {"role": "user", "content": question.text}
                    body = {"messages": [message], "max_tokens": question.tokens, "temperature": 0}
                    answer = await ask(session, target, body)
                    right = await asyncio.to_thread(question.right, answer.text)
                    asked[name].append(Asked(question, answer, right))
                    progress.advance(task)

            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(client())
    return asked


def report(asked: dict[str, list[Asked]], target: Target) -> None:
    """Quality, who answered, tokens, and time beside always the largest."""
    largest = asked["always the largest"]
    rows = []
    for name, ones in asked.items():
        firsts, totals = ([getattr(one.answer, field) or 0.0 for one in ones] for field in ("first", "total"))
        base_first = median([one.answer.first or 0.0 for one in largest])
        base_total = median([one.answer.total for one in largest])
        by_largest = np.mean([one.answer.metadata.get("variant") == VARIANTS[-1] for one in ones])
        wrong = np.mean([not one.right and one.answer.metadata.get("variant") != VARIANTS[-1] for one in ones])
        rows.append(
            [
                name,
                f"{np.mean([one.right for one in ones]):.3f}",
                f"{by_largest:.0%}",
                f"{np.mean([_generated(one) for one in ones]):.0f}",
                f"{median(firsts):.2f} ({median(firsts) / base_first:.2f}×)",
                f"{median(totals):.2f} ({median(totals) / base_total:.2f}×)",
                f"{percentile(totals, 0.95):.1f}",
                f"{wrong:.3f}",
            ]
        )
    wanted = f"≤ {target.accepted_wrong}" if target.accepted_wrong else f"quality ≥ {target.quality}"
    show(
        f"Live: {len(largest)} questions that nothing was learned from; target {wanted}, "
        f"{target.confidence:.0%} confidence",
        [
            "policy",
            "right",
            "answered by the largest",
            "tokens generated",
            "first token p50, s",
            "whole answer p50, s",
            "p95, s",
            "accepted and wrong",
        ],
        rows,
    )
    for name in ("cascade", "learned + cascade"):
        ends = Counter(str(one.answer.metadata.get("variant")) for one in asked[name])
        console.print(f"{name}: answered by {json.dumps(dict(ends))}")


def _generated(one: Asked) -> int:
    """Tokens of all who were asked."""
    attempts = (one.answer.metadata.get("route") or {}).get("attempts") or []
    return one.answer.tokens + sum(int(attempt["tokens"]) for attempt in attempts[:-1])
