"""How a conversation becomes tokens here: as it does in training, and as a prompt that waits for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from train.conversation import Conversation, DataError, Message


@dataclass(frozen=True)
class Row:
    """Tokens, and which of them count: a label is a token, or `IGNORED`."""

    tokens: list[int]
    labels: list[int]


IGNORED = -100


def encode(tokenizer: Any, conversations: Sequence[Conversation], most: int) -> list[Row]:
    """Each as it is in training; one of which training has nothing to learn is left out. Raises `DataError`."""
    from train.format.labels import make_example
    from train.format.template import ChatTemplate, Untellable

    template = ChatTemplate(tokenizer)
    rows = []
    for conversation in conversations:
        try:
            example = make_example(tokenizer, template, conversation, most)
        except Untellable:
            continue
        if example.learned:
            rows.append(Row(example.input_ids, example.labels))
    return rows


def prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The turns so far, and the begin of the assistant's next. A model that can think is told not to. Raises
    `DataError` for turns that its chat template does not take."""
    told = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            told, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (TemplateError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"the chat template does not take it: {error}") from error
    # (Half a surrogate, which some conversations hold, is no UTF-8.)
    text = text.encode("utf-8", "replace").decode()
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def prompts_of(tokenizer: Any, talks: Sequence[Sequence[Message]]) -> list[list[int] | None]:
    """The same of several; None for turns that the chat template does not take."""

    def one(messages: Sequence[Message]) -> list[int] | None:
        try:
            return prompt(tokenizer, messages)
        except DataError:
            return None

    return [one(messages) for messages in talks]


def text_row(tokenizer: Any, text: str, most: int) -> Row:
    """Plain text, of which every token counts."""
    tokens = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]][:most]
    return Row(tokens, list(tokens))
