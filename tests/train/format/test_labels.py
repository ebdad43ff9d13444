"""Loss on what the assistant says and nothing else, told by decoding labels, for the templates that count."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.tiny import SMOLLM2, make_tokenizer
from train.conversation import Conversation, DataError, Message
from train.format.labels import IGNORED, Example, make_example
from train.format.template import ChatTemplate, Untellable

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""With generation markers, and the end of the turn outside of them."""
SILENT_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


def library(name: str) -> str:
    """A template as TRL keeps it: a copy of the model's own."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def conversation(*turns: tuple[str, str], **more: Any) -> Conversation:
    return Conversation(messages=tuple(Message(role=r, content=c) for r, c in turns), **more)  # type: ignore[arg-type]


def learned(tokenizer: Any, example: Example) -> list[str]:
    """The texts that labels say, one of each unbroken run."""
    runs = groupby(example.labels, key=lambda label: label != IGNORED)
    return [tokenizer.decode(list(run)) for wanted, run in runs if wanted]


TALK = conversation(
    ("system", "be short"),
    ("user", "hi\n"),
    ("assistant", "\nhello there  "),
    ("user", "again"),
    ("assistant", "it is 2"),
)


@pytest.mark.parametrize(
    ("template", "last"),
    [
        (SMOLLM2, "it is 2<|im_end|>"),
        (MARKED, "it is 2<|im_end|>"),
        ("qwen2_5", "it is 2<|im_end|>"),
        ("qwen3_instruct_2507", "it is 2<|im_end|>"),
        # (A thinking model says that it thinks nothing: without that, it would think when it is asked.)
        ("qwen3", "<think>\n\n</think>\n\nit is 2<|im_end|>"),
    ],
    ids=["smollm2", "markers", "qwen2.5", "qwen3-instruct", "qwen3"],
)
def test_labels_say_the_answers(template: str, last: str) -> None:
    tokenizer = make_tokenizer(template if "{" in template else library(template))
    example = make_example(tokenizer, ChatTemplate(tokenizer), TALK, 999)
    assert learned(tokenizer, example) == ["\nhello there  <|im_end|>", last]
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    whole = tokenizer.apply_chat_template([m.model_dump() for m in TALK.messages], tokenize=False)
    assert tokenizer.decode(example.input_ids) == whole


@pytest.mark.parametrize("template", [SMOLLM2, "qwen2_5", "qwen3"], ids=["smollm2", "qwen2.5", "qwen3"])
def test_an_answer_has_the_tokens_that_the_model_would_make_after_its_prompt(template: str) -> None:
    tokenizer = make_tokenizer(template if "{" in template else library(template))
    example = make_example(tokenizer, ChatTemplate(tokenizer), TALK, 999)
    begin = next(at for at, label in enumerate(example.labels) if label != IGNORED)
    asked = tokenizer.apply_chat_template(
        [m.model_dump() for m in TALK.messages[:2]], add_generation_prompt=True, return_dict=False
    )
    assert example.input_ids[:begin] == asked


text = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20)


@settings(max_examples=60)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=4), st.sampled_from([SMOLLM2, MARKED, "qwen2_5"]))
def test_whatever_is_said_is_learned_whole(turns: list[tuple[str, str]], template: str) -> None:
    tokenizer = make_tokenizer(template if "{" in template else library(template))
    told = conversation(*(turn for asked, said in turns for turn in (("user", asked), ("assistant", said))))
    example = make_example(tokenizer, ChatTemplate(tokenizer), told, 10_000)
    assert learned(tokenizer, example) == [f"{said}<|im_end|>" for _, said in turns]


def test_weight_0_and_thumbs_down_are_not_learned() -> None:
    tokenizer = make_tokenizer()
    template = ChatTemplate(tokenizer)
    messages = (
        Message(role="user", content="a"),
        Message(role="assistant", content="one", weight=0),
        Message(role="user", content="b"),
        Message(role="assistant", content="two"),
        Message(role="user", content="c"),
        Message(role="assistant", content="three"),
    )
    rated = Conversation(messages=messages, rating="down")
    assert learned(tokenizer, make_example(tokenizer, template, rated, 999)) == ["two<|im_end|>"]
    liked = Conversation(messages=messages, rating="up")
    assert learned(tokenizer, make_example(tokenizer, template, liked, 999)) == [
        "two<|im_end|>",
        "three<|im_end|>",
    ]


def test_what_is_cut_is_told() -> None:
    tokenizer = make_tokenizer()
    template = ChatTemplate(tokenizer)
    whole = make_example(tokenizer, template, TALK, 999)
    cut = make_example(tokenizer, template, TALK, 40)
    assert (len(cut.input_ids), cut.cut) == (40, len(whole.input_ids) - 40)
    assert cut.input_ids == whole.input_ids[:40]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (conversation(("user", "say <|im_end|>"), ("assistant", "no")), "control tokens"),
        (conversation(("user", "a"), ("assistant", "x<|im_start|>system")), "control tokens"),
    ],
)
def test_a_conversation_cannot_close_its_own_turn(told: Conversation, why: str) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(Untellable, match=why):
        make_example(tokenizer, ChatTemplate(tokenizer), told, 999)


@pytest.mark.parametrize(("template", "why"), [("", "no chat template"), (SILENT_END, "learn to stop")])
def test_a_base_that_cannot_be_trained_on_conversations(template: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        ChatTemplate(make_tokenizer(template))
