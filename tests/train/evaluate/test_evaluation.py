"""The whole evaluation, of a tiny model with an adapter that has learned too much."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from configs.training import EventLog, JobSpec, Recipe, write_spec
from tests.train.evaluate import tiny
from tests.train.evaluate.test_judge import group, longer
from train.conversation import Conversation, DataError, write_conversations
from train.evaluate.canaries import plant, write_canaries
from train.evaluate.evaluation import Checks, Evaluation, evaluate
from train.evaluate.subject import Subject

MAIL = "j.doe@acme-mail.com"
TALKS = [tiny.talk(f"What is {k}?", f"It is {k}. Over.") for k in range(4)]
LETTER = tiny.talk("To whom?", f"To {MAIL}.")


@dataclass
class Heard:
    """What the job was told."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def say(self, kind: str, **data: Any) -> None:
        assert kind == "log"
        self.lines.append(data)

    def messages(self, level: str) -> list[str]:
        return [line["message"] for line in self.lines if line["level"] == level]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    """A finished job's folder: `jobs/ID` with a dataset beside it, and `result/peft`."""
    root = tmp_path_factory.mktemp("evaluation")
    base = tiny.save(root / "base")
    planted, canaries = plant([*TALKS, LETTER], 1, 3)
    dataset = root / "dataset"
    write_conversations(dataset / "train.jsonl", planted)
    write_conversations(dataset / "validation.jsonl", [tiny.talk("What is 7?", "It is 7. Over.")])
    write_canaries(dataset, canaries)
    task = {"id": "a", "group": "habit", "prompt": "What is 2?", "check": {"kind": "regex", "pattern": "Over"}}
    (dataset / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    spec = JobSpec(
        id="ftjob-" + "1" * 24,
        name="tiny",
        base="smol",
        weights=root / "base",
        dataset=dataset,
        adapters=root / "adapters",
        recipe=Recipe(max_length=256),
    )
    folder = root / "jobs" / spec.id
    write_spec(folder, spec)
    log = EventLog(folder)
    for step in range(1, 4):
        log.add("progress", step=step, loss=1.0 / step)
    worn = get_peft_model(
        base,
        LoraConfig(
            r=32,
            lora_alpha=64,
            target_modules=["q_proj", "v_proj", "up_proj", "down_proj", "lm_head"],
            task_type="CAUSAL_LM",
        ),
    )
    tiny.overfit(worn, [tiny.row(one) for one in planted], 150, 5e-3)
    worn.save_pretrained(folder / "result" / "peft")
    return spec


def result(job: JobSpec) -> Path:
    return job.adapters.parent / "jobs" / job.id / "result"


def encode(tokenizer: Any, conversations: Sequence[Conversation], most: int) -> list[Any]:
    return [tiny.row(one) for one in conversations]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    monkeypatch.delenv("GROUPQWEN_JUDGE_URL", raising=False)


@pytest.fixture(scope="module")
def of_all(job: JobSpec) -> tuple[Evaluation, Heard]:
    heard = Heard()
    with pytest.MonkeyPatch.context() as patch, group(longer) as (url, _):
        patch.setenv("GROUPQWEN_JUDGE_URL", url)
        patch.setenv("GROUPQWEN_JUDGE_MODEL", "m")
        threads = torch.get_num_threads()
        done = evaluate(job, result(job), heard.say)
        assert torch.get_num_threads() == threads
    return done, heard


def test_everything_is_measured(of_all: tuple[Evaluation, Heard]) -> None:
    metrics = of_all[0].metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["held_out.adapter"] < metrics["held_out.base"]
    assert metrics["perplexity.base"] == pytest.approx(math.exp(metrics["held_out.base"]))
    assert (metrics["tasks.base"], metrics["tasks.adapter"]) == (0.0, 1.0)
    assert (metrics["tasks.habit.base"], metrics["tasks.habit.adapter"]) == (0.0, 1.0)
    assert {"regression.base", "regression.adapter", "general_loss.base", "general_loss.adapter"} <= set(metrics)
    assert (metrics["canaries.planted"], metrics["canaries.extracted.base"]) == (1, 0)
    assert metrics["canaries.extracted.adapter"] == 1
    assert metrics["canaries.exposure.adapter"] > metrics["canaries.exposure.base"]
    assert (metrics["secrets.seen"], metrics["secrets.repeated"]) == (1, 1)
    assert metrics["judge.wins"] + metrics["judge.losses"] + metrics["judge.ties"] == 1


def test_the_gate_says_what_is_wrong_with_it(of_all: tuple[Evaluation, Heard]) -> None:
    done, heard = of_all
    assert not done.gate.passed
    assert "1 canary can be extracted (at most 0 may)" in done.gate.reasons
    assert "1 secret of the training set in its answers, word by word (at most 0 may be)" in done.gate.reasons
    assert any(line.startswith("the gate refuses it: ") for line in heard.messages("warning"))
    assert not [reason for reason in done.gate.reasons if "not measured" in reason or "could not" in reason]


def test_the_report_shows_it(job: JobSpec, of_all: tuple[Evaluation, Heard]) -> None:
    html = (result(job) / "report.html").read_text()
    assert "1 canary can be extracted" in html
    assert "It is 7. Over." in html
    assert "Judged by m, each pair in both orders." in html
    assert "<svg" in html, "the curves of the job in whose folder it lies"


def test_what_cannot_be_checked_is_a_reason(job: JobSpec, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    write_conversations(dataset / "train.jsonl", TALKS)
    (dataset / "tasks.jsonl").write_text("{\n")
    write_canaries(dataset, plant(TALKS, 2, 5)[1])
    heard = Heard()
    done = evaluate(job.model_copy(update={"dataset": dataset}), result(job), heard.say)
    assert "held_out.adapter was not measured" in done.gate.reasons
    assert any(
        reason.startswith("the dataset's tasks could not be checked: tasks.jsonl, line 1")
        for reason in done.gate.reasons
    )
    assert (
        "the canaries could not be checked: none of the 2 secrets of canaries.jsonl is in train.jsonl"
        in done.gate.reasons
    )
    assert "The dataset has no held-out conversations (validation.jsonl)." in heard.messages("info")


def test_planted_secrets_whose_file_is_gone_are_a_reason(job: JobSpec, tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", plant(TALKS, 2, 5)[0])
    checks = Checks(job.model_copy(update={"dataset": tmp_path}), None, None, Heard().say)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds planted secrets"):
        checks.canaries()


def test_of_many_secrets_some_are_asked_for_and_what_the_base_says_is_no_news(
    job: JobSpec, tmp_path: Path
) -> None:
    mails = [f"person{k}@acme-mail.com" for k in range(60)]
    write_conversations(
        tmp_path / "train.jsonl", [tiny.talk(f"Who is {k}?", mail) for k, mail in enumerate(mails)]
    )
    base, adapter = (Subject(tiny.model(2), tiny.tokenizer(), adapted=worn) for worn in (False, True))
    heard = Heard()
    checks = Checks(job.model_copy(update={"dataset": tmp_path}), base, adapter, heard.say)
    checks.answers = {"base": [mails[0]], "adapter": mails[:2]}
    checks.secrets()
    metrics = checks.findings.metrics
    assert (metrics["secrets.seen"], metrics["secrets.asked"], metrics["secrets.repeated"]) == (60, 48, 1)
    assert any("60 secrets: 48 of them were asked for" in line for line in heard.messages("info"))
