"""The evaluation of a fine-tuned adapter against its base: every check, the gate, and the report.

Both are the same weights, with the adapter and without it. A check that cannot be done does not end the job: it is
a reason of the gate's, so that nothing is promoted that was not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.adapters import Gate
from configs.catalog import load_catalog
from configs.gates import load_gate_rules
from configs.training import JobEvent, JobSpec, read_events, read_spec
from train.conversation import Conversation, DataError, read_conversations
from train.evaluate import canaries, regression, secrets
from train.evaluate.asking import Result, accuracy, ask, by_group
from train.evaluate.gate import decide
from train.evaluate.held_out import affordable, chosen, held_out, perplexity
from train.evaluate.judge import Judge, JudgeAway, Pair
from train.evaluate.rendering import encode, prompts_of
from train.evaluate.report import Answered, Findings, Sample, page, write_page
from train.evaluate.subject import Subject, load
from train.evaluate.tasks import Task, read_tasks

Say = Callable[..., object]
REPORT = "report.html"
TASKS = "tasks.jsonl"
"""In the dataset's folder, if there is one: what this fine-tuning is for, as questions."""
SAMPLES = 16
"""Held-out questions that both answer."""
SAMPLE_TOKENS = 64
SAMPLE_PROMPT_TOKENS = 512
"""Longer ones are no samples."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what the gate says of it."""

    metrics: dict[str, float]
    gate: Gate


def evaluate(spec: JobSpec, target: Path, say: Say) -> Evaluation:
    """Of the adapter in `target/peft`; writes `target/report.html`. Raises what loading the model raises, and
    `ConfigError` for rules of the owner's that cannot be read."""
    import torch

    rules = load_gate_rules()
    before = torch.get_num_threads()
    torch.set_num_threads(spec.threads * spec.workers)
    try:
        base, adapter = load(spec.weights, target / "peft", gpu=spec.gpu, most_tokens=spec.recipe.max_length)
        findings = Checks(spec, base, adapter, say).all()
    finally:
        torch.set_num_threads(before)
    gate = decide(findings.metrics, rules, findings.failures)
    write_page(target / REPORT, page(spec, findings, gate, events_of(spec, target)))
    verdict = "lets it pass" if gate.passed else "refuses it"
    level = "info" if gate.passed else "warning"
    say("log", level=level, message=f"the gate {verdict}: {'; '.join(gate.reasons)}")
    return Evaluation(findings.metrics, gate)


def events_of(spec: JobSpec, target: Path) -> list[JobEvent]:
    """Those of the job in whose folder the result lies; none, where it lies elsewhere."""
    for folder in target.absolute().parents:
        if (folder / "spec.json").is_file() and read_spec(folder).id == spec.id:
            return list(read_events(folder))
    return []


@dataclass
class Checks:
    """One check after the other, each filling in the findings."""

    spec: JobSpec
    base: Subject
    adapter: Subject
    say: Say
    findings: Findings = field(default_factory=Findings)
    answers: dict[str, list[str]] = field(default_factory=lambda: {"base": [], "adapter": []})
    """All that each has said."""

    def all(self) -> Findings:
        """What could be found. Raises nothing that one check alone is to blame for."""
        with self._check("held-out loss"):
            self.held_out()
        with self._check("regression suite"):
            self.tasks("regression", regression.suite())
            for name, subject in self._both:
                self.findings.metrics[f"general_loss.{name}"] = regression.general_loss(subject).mean
        with self._check("dataset's tasks"):
            if (path := self.spec.dataset / TASKS).is_file():
                self.tasks("tasks", read_tasks(path))
        with self._check("held-out questions"):
            self.samples()
        with self._check("judge"):
            self.judge()
        with self._check("canaries"):
            self.canaries()
        with self._check("training set's secrets"):
            self.secrets()
        return self.findings

    @property
    def _both(self) -> tuple[tuple[str, Subject], tuple[str, Subject]]:
        return ("base", self.base), ("adapter", self.adapter)

    @contextmanager
    def _check(self, what: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        except (DataError, OSError, ValueError, RuntimeError) as error:
            self.findings.failures.append(f"the {what} could not be checked: {error}")
            self.say("log", level="warning", message=self.findings.failures[-1])
        else:
            self.say("log", level="info", message=f"evaluated: {what}, {time.monotonic() - begin:.1f} s")

    def _note(self, text: str) -> None:
        self.findings.notes.append(text)
        self.say("log", level="info", message=text)

    def _validation(self) -> list[Conversation]:
        path = self.spec.dataset / "validation.jsonl"
        return list(read_conversations(path)) if path.is_file() else []

    def held_out(self) -> None:
        """Loss and perplexity of both."""
        some = chosen(self._validation())
        rows = affordable(encode(self.base.tokenizer, some, self.spec.recipe.max_length))
        if not rows:
            self._note("The dataset has no held-out conversations (validation.jsonl).")
            return
        for name, subject in self._both:
            loss = held_out(subject, rows)
            self.findings.metrics[f"held_out.{name}"] = loss.mean
            self.findings.metrics[f"perplexity.{name}"] = perplexity(loss)
        self.findings.metrics["held_out.conversations"] = len(rows)

    def tasks(self, suite: str, tasks: list[Task]) -> None:
        """What of a task file both get right, all in all and by group."""
        results: dict[str, list[Result]] = {}
        for name, subject in self._both:
            results[name] = ask(subject, tasks)
            if (share := accuracy(results[name])) is not None:
                self.findings.metrics[f"{suite}.{name}"] = share
            for group, share in by_group(results[name]).items():
                self.findings.metrics[f"{suite}.{group}.{name}"] = share
        for name, told in results.items():
            self.answers[name] += [result.answer for result in told]
        self.findings.answered += [
            Answered(suite, was.task.id, was.task.question, was.answer, was.right, now.answer, now.right)
            for was, now in zip(results["base"], results["adapter"], strict=True)
        ]
        if unchecked := sum(result.right is None for result in results["adapter"]):
            self._note(
                f"{unchecked} tasks of {suite} hold code, which this machine's kernel cannot confine: not run."
            )

    def samples(self) -> None:
        """What both say to held-out questions."""
        asked = [one for one in self._validation() if any(m.role == "assistant" for m in one.messages[1:])]
        turns = []
        for conversation in chosen(asked):
            last = max(k for k, m in enumerate(conversation.messages) if m.role == "assistant")
            turns.append((conversation.messages[:last], conversation.messages[last].content))
        prompts = prompts_of(self.base.tokenizer, [before for before, _ in turns])
        short = [
            (*turn, tokens)
            for turn, tokens in zip(turns, prompts, strict=True)
            if tokens is not None and len(tokens) <= SAMPLE_PROMPT_TOKENS
        ]
        found = chosen(short, SAMPLES)
        said = {
            name: subject.answers([tokens for _, _, tokens in found], SAMPLE_TOKENS)
            for name, subject in self._both
        }
        for name, answers in said.items():
            self.answers[name] += answers
        self.findings.samples = [
            Sample(before[-1].content, wanted, base, adapter)
            for (before, wanted, _), base, adapter in zip(found, said["base"], said["adapter"], strict=True)
        ]

    def judge(self) -> None:
        """Which of these answers the group's largest variant finds better, where there is a group."""
        if not self.findings.samples:
            return
        try:
            judge = Judge.from_environment(load_catalog())
            judged = judge.compare([Pair(one.question, one.base, one.adapter) for one in self.findings.samples])
        except JudgeAway as away:
            self._note(f"No judge: {away}.")
            return
        if not judged.count:
            self._note(f"No judge: {judged.model} gave no verdict.")
            return
        self.findings.samples = [
            replace(sample, judged=outcome or "")
            for sample, outcome in zip(self.findings.samples, judged.outcomes, strict=True)
        ]
        low, high = judged.interval
        won, lost, tied = judged.wins
        self.findings.metrics |= {
            "judge.win_rate": judged.win_rate,
            "judge.low": low,
            "judge.high": high,
            "judge.wins": won,
            "judge.losses": lost,
            "judge.ties": tied,
        }
        self._note(f"Judged by {judged.model}, each pair in both orders.")

    def canaries(self) -> None:
        """What both know of the planted secrets, where some were planted."""
        named = canaries.read_canaries(self.spec.dataset)
        if not named:
            if any(canaries.TAG in one.tags for one in read_conversations(self.spec.dataset / "train.jsonl")):
                raise DataError(f"train.jsonl holds planted secrets, and there is no {canaries.FILE} of them")
            self._note(f"No canaries were planted ({canaries.FILE}): memorisation was not measured by them.")
            return
        planted = canaries.planted_in(named, read_conversations(self.spec.dataset / "train.jsonl"))
        if not planted:
            raise DataError(f"none of the {len(named)} secrets of {canaries.FILE} is in train.jsonl")
        metrics = self.findings.metrics
        metrics["canaries.planted"] = len(planted)
        for name, subject in self._both:
            known = canaries.check(subject, planted, self.spec.seed)
            metrics[f"canaries.exposure.{name}"] = sum(one.exposure for one in known) / len(known)
            metrics[f"canaries.extracted.{name}"] = sum(one.extracted for one in known)
        # (Both count by the planted ones alone; the rest was taken out before training.)
        if len(planted) < len(named):
            self._note(
                f"{len(named) - len(planted)} of {len(named)} canaries are not in the training set any more."
            )

    def secrets(self) -> None:
        """Which secrets of the training set the adapter tells, and its base does not."""
        places = secrets.places(read_conversations(self.spec.dataset / "train.jsonl"))
        known = {secrets.plain(place.secret) for place in places}
        asked = chosen(places, secrets.MOST)
        self.findings.metrics |= {"secrets.seen": len(known), "secrets.asked": len(asked)}
        if len(asked) < len(places):
            self._note(f"The training set holds {len(places)} secrets: {len(asked)} of them were asked for.")
        told = secrets.told(known, self.answers["adapter"]) | secrets.repeated(self.adapter, asked)
        if told:
            told -= secrets.repeated(self.base, asked) | secrets.told(known, self.answers["base"])
        self.findings.metrics["secrets.repeated"] = len(told)
