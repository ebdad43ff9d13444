"""Losses against a calculation by hand; batches change nothing; the base is the adapter taken off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.train.evaluate import tiny
from train.conversation import DataError, Message
from train.evaluate import subject as module
from train.evaluate.held_out import affordable, chosen, held_out, perplexity
from train.evaluate.rendering import IGNORED, Row, prompt, prompts_of
from train.evaluate.subject import Loss, Subject, load

TALKS = [tiny.talk("Hello?", "Yes."), tiny.talk("A", "No, I would rather not."), tiny.talk("What is it?", "Tea")]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.model()


@pytest.fixture(scope="module")
def subject(model: Any) -> Subject:
    return Subject(model, tiny.tokenizer(), adapted=False)


def by_hand(model: Any, row: Row) -> tuple[float, int]:
    """Minus the log of each counted token's probability, one after the other."""
    with torch.no_grad():
        logits = model(torch.tensor([row.tokens])).logits[0].double()
    total, count = 0.0, 0
    for k in range(1, len(row.tokens)):
        if row.labels[k] != IGNORED:
            scores = [math.exp(x) for x in logits[k - 1].tolist()]
            total -= math.log(scores[row.tokens[k]] / sum(scores))
            count += 1
    return total, count


def test_perplexity_is_what_a_hand_calculates(model: Any, subject: Subject) -> None:
    rows = [tiny.row(talk) for talk in TALKS]
    told = [by_hand(model, row) for row in rows]
    loss = held_out(subject, rows)
    tokens = sum(count for _, count in told)
    assert loss.tokens == tokens == len("Yes.No, I would rather not.Tea") + 3
    assert loss.mean == pytest.approx(sum(total for total, _ in told) / tokens, rel=1e-5)
    assert perplexity(loss) == pytest.approx(math.exp(loss.mean))
    for one, (total, count) in zip(subject.losses(rows), told, strict=True):
        assert (one.total, one.tokens) == (pytest.approx(total, rel=1e-5), count)


def test_batches_change_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [tiny.row(talk) for talk in TALKS * 3]
    together = subject.losses(rows)
    monkeypatch.setattr(module, "LOGIT_BYTES", 1)
    alone = subject.losses(rows)
    assert [one.total for one in together] == pytest.approx([one.total for one in alone], rel=1e-5)
    prompts = [prompt(subject.tokenizer, talk.messages[:1]) for talk in TALKS]
    answers = subject.answers(prompts, 12)
    assert answers == [subject.answers([one], 12)[0] for one in prompts]


def test_what_has_no_label_has_no_loss(subject: Subject) -> None:
    assert subject.losses([Row([1, 2, 3], [IGNORED] * 3), Row([1], [1])]) == [Loss(0.0, 0), Loss(0.0, 0)]
    assert math.isnan(held_out(subject, []).mean)
    assert perplexity(Loss(1e6, 1)) == math.inf


def test_a_continuation_costs_what_it_costs_in_a_whole_row(subject: Subject) -> None:
    start = prompt(subject.tokenizer, [Message(role="user", content="Which?")])
    texts = [[10, 20, 30], [40], [50, 60, 70, 80, 90]]
    told = subject.continuations(start, texts)
    whole = subject.losses([Row([*start, *text], [IGNORED] * len(start) + text) for text in texts])
    assert [one.total for one in told] == pytest.approx([one.total for one in whole], rel=1e-4)
    assert [one.tokens for one in told] == [3, 1, 5]


def test_the_base_is_the_adapter_taken_off(tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base")
    rows = [tiny.row(talk) for talk in TALKS]
    before = held_out(Subject(base, tiny.tokenizer(), adapted=False), rows).mean
    worn = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    tiny.overfit(worn, rows, 20, 1e-2)
    worn.save_pretrained(tmp_path / "peft")
    bare, adapted = load(tmp_path / "base", tmp_path / "peft", gpu=False, most_tokens=512)
    assert held_out(bare, rows).mean == pytest.approx(before, rel=1e-6)
    assert held_out(adapted, rows).mean < before - 0.1
    assert held_out(bare, rows).mean == pytest.approx(before, rel=1e-6), "also after the adapter was on"
    assert isinstance(adapted._model, PeftModel)


def test_of_many_some_are_chosen_from_everywhere() -> None:
    many = [tiny.talk(str(k), "yes") for k in range(1000)]
    some = chosen(many, 10)
    assert [one.messages[0].content for one in some] == [str(k) for k in range(0, 1000, 100)]
    assert chosen(many[:3], 10) == many[:3]
    rows = [tiny.row(one) for one in many[:5]]
    assert affordable(rows, 2 * len(rows[0].tokens)) == rows[:2]
    assert affordable(rows, 1) == rows[:1]
    assert affordable([]) == []


def test_turns_that_a_chat_template_does_not_take_are_left_out() -> None:
    strict = tiny.tokenizer()
    strict.chat_template = "{{ raise_exception('no') if messages[0].role == 'system' }}x"
    system = [Message(role="system", content="Be kind.")]
    with pytest.raises(DataError, match="does not take it: no"):
        prompt(strict, system)
    half = [Message(role="user", content="\ud800")]
    assert [one is None for one in prompts_of(strict, [system, half])] == [True, False]
    assert prompt(tiny.tokenizer(), half) == prompt(tiny.tokenizer(), [Message(role="user", content="?")])
