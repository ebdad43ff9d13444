"""Where the assistant speaks in a rendered conversation, told from the model's own chat template.

Two ways, both exact: by the template's generation markers, where it has them; else by rendering prefixes. What
comes before an answer must be rendered in the same way with the answer as without it (with the generation prompt),
because that is what the model is given when it is asked. Where it is not, there is no label to be had, and that is
said.

Knows text only: tokens are of labels.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from train.conversation import DataError, Message

PROBE = "Zxqj7"
"""Stands for an answer, to find what a template puts behind one."""
MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Untellable(Exception):
    """What in this conversation the assistant says cannot be told apart; the text says why."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it. `spans`: (begin, end) in `text` of what it is to say."""

    text: str
    spans: tuple[tuple[int, int], ...]


def as_template_reads(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns in the form of chat templates."""
    return [{"role": m.role, "content": m.content} | ({"name": m.name} if m.name else {}) for m in messages]


class ChatTemplate:
    """The chat template of one tokenizer. Raises `DataError` where there is none, or none that can be followed."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "The base model's tokenizer has no chat template: it cannot be trained on conversations."
            )
        self._tokenizer = tokenizer
        self._marked = MARKERS.search(tokenizer.get_chat_template()) is not None
        # (Longest first: one may begin with another.)
        special = sorted({str(token) for token in tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self.turn_end = self._find_turn_end()

    def render(self, messages: Sequence[Message], ask: bool = False) -> str:
        """The text; with `ask`, up to where the model is to answer. Raises `Untellable`."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                as_template_reads(messages), tokenize=False, add_generation_prompt=ask
            )
        except (TemplateError, TypeError, KeyError, IndexError) as error:
            raise Untellable(f"the chat template does not take it: {error}") from error
        return text

    def rendered(self, messages: Sequence[Message]) -> Rendered:
        """The text, and in it what the assistant says, with the token that ends its turn. Raises `Untellable`."""
        if any(self._special.search(m.content) for m in messages):
            raise Untellable("it holds one of the model's control tokens")
        text = self.render(messages)
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        spans = self._by_markers(messages, text) if self._marked else self._by_prefixes(messages, answers, text)
        if len(spans) != len(answers):
            raise Untellable("the template's generation markers do not agree with its turns")
        return Rendered(text, tuple(spans))

    def _find_turn_end(self) -> str:
        try:
            text = self.render([Message(role="user", content="a"), Message(role="assistant", content=PROBE)])
        except Untellable as error:
            raise DataError(f"The base model cannot be trained on conversations: {error}.") from error
        tail = text.rpartition(PROBE)[2]
        ends = self._special.search(tail)
        if ends is None:
            raise DataError(
                "The base model's chat template ends an answer without a control token: "
                "it would not learn to stop."
            )
        return tail[: ends.end()]

    def _by_prefixes(self, messages: Sequence[Message], answers: list[int], text: str) -> list[tuple[int, int]]:
        spans = []
        for index in answers:
            begin = _alike(text, self.render(messages[:index], ask=True))
            # (Templates that make a model think may put more into the generation prompt than stands before an
            # answer without thoughts. All that comes before the turn itself must be the same.)
            if begin < len(self.render(messages[:index])):
                raise Untellable("what comes before an answer is rendered differently without it")
            end = text.find(self.turn_end, begin)
            if end < 0:
                raise Untellable("an answer does not end as the template ends answers")
            spans.append((begin, end + len(self.turn_end)))
        return spans

    def _by_markers(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        [marked], [found] = render_jinja_template(
            conversations=[as_template_reads(messages)],
            chat_template=self._tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        if marked != text:
            raise Untellable("it is rendered differently with generation markers")
        # (Some templates leave the end of the turn outside: a model that never learns it does not stop.)
        return [
            (begin, end + len(self.turn_end) if text.startswith(self.turn_end, end) else end)
            for begin, end in found
        ]


def _alike(one: str, other: str) -> int:
    """How many characters they have in common from the first on."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
