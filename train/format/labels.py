"""Token ids and labels of a rendered conversation: loss on what the assistant says, and on nothing else.

The text is cut where answers begin and end, and each piece is tokenised by itself. So no token lies across a
border, and an answer has the tokens that the model would make after the same prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.conversation import Conversation
from train.format.template import ChatTemplate, Rendered, Untellable

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Example:
    """One row. `cut`: tokens beyond the limit, which are gone."""

    input_ids: list[int]
    labels: list[int]
    cut: int = 0

    @property
    def learned(self) -> int:
        """How many tokens have a label. (The first is never predicted.)"""
        return sum(label != IGNORED for label in self.labels[1:])


def learned_answers(conversation: Conversation) -> list[bool]:
    """Of each answer, whether it is learned from: not one of weight 0, nor a last one that was thumbed down."""
    wanted = [m.weight > 0 for m in conversation.messages if m.role == "assistant"]
    if wanted and conversation.rating == "down" and conversation.messages[-1].role == "assistant":
        wanted[-1] = False
    return wanted


def pieces(rendered: Rendered, wanted: Sequence[bool]) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is learned."""
    cut, at = [], 0
    for (begin, end), learned in zip(rendered.spans, wanted, strict=True):
        cut += [(rendered.text[at:begin], False), (rendered.text[begin:end], learned)]
        at = end
    return [*((text, learned) for text, learned in cut if text), (rendered.text[at:], False)]


def make_example(tokenizer: Any, template: ChatTemplate, conversation: Conversation, limit: int) -> Example:
    """The row of a conversation. Raises `Untellable`."""
    rendered = template.rendered(conversation.messages)
    ids: list[int] = []
    labels: list[int] = []
    for text, learned in pieces(rendered, learned_answers(conversation)):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += tokens if learned else [IGNORED] * len(tokens)
    if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != rendered.text:
        raise Untellable("its tokens do not say what it says")
    return Example(ids[:limit], labels[:limit], max(0, len(ids) - limit))
