"""Asks every variant of the running group all questions of the sample, two at a time, and writes down what came:
the log that `benchmark.py cascade` replays (columns in docs/EVALUATION.md). Goes on where it was stopped."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from openai.types.chat import ChatCompletionTokenLogprob
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.load import Answer, Target, ask
from benchmarks.machine import console
from benchmarks.questions import Question
from configs.catalog import load_catalog
from deployments.router.confidence import margin_of, signals_of
from groupqwen.client import endpoint_and_key, get

DECIMALS = 4
CLIENTS = 2


def record(questions: list[Question], variants: list[str], path: Path) -> None:
    """Append what is missing to the log."""
    endpoint, key = endpoint_and_key()
    there = {model["id"] for model in get(endpoint, key, "/models").json()["data"]}
    missing = [variant for variant in variants if variant not in there]
    if missing:
        raise ValueError(f"the running group does not serve {', '.join(missing)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["question"], row["model"]) for row in read(path)}
    todo = [
        (question, variant)
        for variant in variants
        for question in questions
        if (question.text, variant) not in done
    ]
    if todo:
        asyncio.run(_record(todo, Target("GroupQwen", endpoint, "", key, {"cache-control": "no-store"}), path))


async def _record(todo: list[tuple[Question, str]], target: Target, path: Path) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        with Progress(*columns, console=console) as progress, path.open("a") as log:
            task = progress.add_task("asking", total=len(todo))
            waiting = list(reversed(todo))

            async def client() -> None:
                while waiting:
                    question, variant = waiting.pop()
                    progress.update(task, description=variant)
                    answer = await ask(session, target, body(question, variant))
                    # (A function that was written is run, which takes seconds where it does not end.)
                    row = await asyncio.to_thread(row_of, question, variant, answer)
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    progress.advance(task)

            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(client())


def body(question: Question, model: str) -> dict[str, Any]:
    """The request, which asks for what the confidence is made of."""
    messages = [{"role": "user", "content": question.text}]
    asked = {"model": model, "messages": messages, "max_tokens": question.tokens, "temperature": 0}
    return {**asked, "logprobs": True, "top_logprobs": 2}


def row_of(question: Question, model: str, answer: Answer) -> dict[str, Any]:
    """A line of the log. Raises `RuntimeError` where there is no whole answer."""
    if answer.error is not None or answer.status != 200:
        raise RuntimeError(f"{model} did not answer: {answer.status} {answer.error}")
    tokens = [ChatCompletionTokenLogprob.model_validate(token) for token in answer.logprobs]
    logprobs, margins = [token.logprob for token in tokens], [margin_of(token) for token in tokens]
    found = signals_of(logprobs, margins)
    price = load_catalog().variant(model).price
    # Questions are short: the prompt's tokens are near enough to be counted by its characters.
    cost = (len(question.text) / 4 * price.input + answer.tokens * price.output) / 1e6
    return {
        "question": question.text,
        "group": question.group,
        "model": model,
        "correct": int(question.right(answer.text)),
        "mean_logprob": round(found.mean_logprob, DECIMALS) if found else 0.0,
        "margin": round(found.margin, DECIMALS) if found else 0.0,
        "low_logprob": round(found.low_logprob, DECIMALS) if found else 0.0,
        "tokens": answer.tokens,
        "cost": cost,
        "latency": round(answer.total, DECIMALS),
        "first": round(answer.first or answer.total, DECIMALS),
        "logprobs": [round(value, 3) for value in logprobs],
        "margins": [round(value, 3) for value in margins],
        "answer": answer.text,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The log's lines; none where there is no log yet. A last line that was cut is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
