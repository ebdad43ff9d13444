"""Asks a subject the tasks of a file, and counts what is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from train.evaluate.rendering import prompt
from train.evaluate.sandbox import SandboxMissing
from train.evaluate.subject import Subject
from train.evaluate.tasks import Choice, Task


@dataclass(frozen=True)
class Result:
    """`right`: None where it could not be checked here."""

    task: Task
    answer: str
    right: bool | None


def ask(subject: Subject, tasks: Sequence[Task]) -> list[Result]:
    """In the order of the tasks."""
    told: dict[str, str] = {}
    lengths = sorted({task.most_tokens for task in tasks if not isinstance(task.check, Choice)})
    for most in lengths:
        asked = [task for task in tasks if task.most_tokens == most and not isinstance(task.check, Choice)]
        prompts = [prompt(subject.tokenizer, task.messages)[-subject.most_tokens :] for task in asked]
        answers = subject.answers(prompts, most)
        told.update({task.id: answer for task, answer in zip(asked, answers, strict=True)})
    return [
        _choose(subject, task, task.check) if isinstance(task.check, Choice) else _judge(task, told[task.id])
        for task in tasks
    ]


def _judge(task: Task, answer: str) -> Result:
    try:
        return Result(task, answer, task.right(answer))
    except SandboxMissing:
        return Result(task, answer, None)


def _choose(subject: Subject, task: Task, check: Choice) -> Result:
    texts = [
        [int(token) for token in subject.tokenizer(option, add_special_tokens=False)["input_ids"]]
        for option in check.options
    ]
    losses = subject.continuations(prompt(subject.tokenizer, task.messages)[-subject.most_tokens :], texts)
    # By letters, so that no option gains by being short, or by being cut into few tokens.
    each = [loss.total / max(1, len(option)) for loss, option in zip(losses, check.options, strict=True)]
    said = each.index(min(each))
    return Result(task, check.options[said], said == check.right_option)


def accuracy(results: Sequence[Result]) -> float | None:
    """Share of what could be checked that is right; None: nothing could."""
    checked = [result.right for result in results if result.right is not None]
    return sum(checked) / len(checked) if checked else None


def by_group(results: Sequence[Result]) -> dict[str, float]:
    """The same for each group that has a name."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.task.group:
            groups[result.task.group].append(result)
    shares = {group: accuracy(some) for group, some in sorted(groups.items())}
    return {group: share for group, share in shares.items() if share is not None}
