"""The rows that each method learns from: answers (SFT), pairs (DPO), thumbs (KTO).

A conversation that gives no row is told in the report with its reason; one that cannot be meant so is an error
that names file, line and field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.training import Method
from train.conversation import MOST_LINE_BYTES, Conversation, DataError, Message, parse_conversation
from train.format.labels import learned_answers, make_example
from train.format.template import ChatTemplate, Untellable, as_template_reads

Row = dict[str, Any]


@dataclass
class Tally:
    """What became of a file's conversations."""

    conversations: int = 0
    rows: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    cut: int = 0
    """Conversations that were longer than the limit."""
    cut_tokens: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Conversations that gave no row, by reason."""


def numbered(path: Path) -> Iterator[tuple[str, Conversation]]:
    """(where, conversation) of a file. Raises `DataError`."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            where = f"{path.name}, line {number}"
            if len(line) > MOST_LINE_BYTES:
                raise DataError(f"{where}: longer than {MOST_LINE_BYTES >> 20} MiB")
            if line.strip():
                yield where, parse_conversation(line, where)


class RowMaker:
    """Makes rows of one method with one tokenizer. `tally` grows with them."""

    def __init__(self, method: Method, tokenizer: Any, limit: int) -> None:
        self._method = method
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._limit = limit
        self.tally = Tally()

    def rows(self, path: Path) -> Iterator[Row]:
        """Those of a file. Raises `DataError`."""
        make = {"sft": self._sft, "dpo": self._dpo, "kto": self._kto}[self._method]
        for where, conversation in numbered(path):
            self.tally.conversations += 1
            _check(conversation, where)
            try:
                made = list(make(conversation, where))
            except Untellable as error:
                reason = str(error)
                self.tally.left_out[reason] = self.tally.left_out.get(reason, 0) + 1
                continue
            self.tally.rows += len(made)
            yield from made

    def _sft(self, conversation: Conversation, where: str) -> Iterator[Row]:
        if not any(learned_answers(conversation)):
            raise Untellable("no answer in it is to be learned (weight 0, or thumbs down)")
        example = make_example(self._tokenizer, self._template, conversation, self._limit)
        self._count(len(example.input_ids), example.learned, example.cut)
        if not example.learned:
            raise Untellable(f"its answers begin beyond {self._limit} tokens")
        yield {"input_ids": example.input_ids, "labels": example.labels}

    def _dpo(self, conversation: Conversation, where: str) -> Iterator[Row]:
        if conversation.rejected is None:
            raise Untellable("it has no rejected answer")
        prompt, chosen = _split(conversation, where)
        if not conversation.rejected.strip():
            raise DataError(f"{where}: rejected: is empty: a pair needs two answers")
        if conversation.rejected == chosen.content:
            raise DataError(f"{where}: rejected: is the same as the answer that it is to be worse than")
        worse = Message(role="assistant", content=conversation.rejected)
        for answer in (chosen, worse):
            self._measure([*prompt, answer])
        yield {
            "prompt": as_template_reads(prompt),
            "chosen": as_template_reads([chosen]),
            "rejected": as_template_reads([worse]),
        }

    def _kto(self, conversation: Conversation, where: str) -> Iterator[Row]:
        if conversation.rating is None and conversation.rejected is None:
            raise Untellable("it has no thumb")
        prompt, answer = _split(conversation, where)
        said = [(answer, conversation.rating != "down")]
        if conversation.rejected is not None:
            said.append((Message(role="assistant", content=conversation.rejected), False))
        for told, _ in said:
            self._measure([*prompt, told])
        for told, good in said:
            yield {
                "prompt": as_template_reads(prompt),
                "completion": as_template_reads([told]),
                "label": good,
            }

    def _measure(self, messages: list[Message]) -> None:
        # (TRL tokenises pairs itself, and cuts them; whether something is left of the answer is to be known
        # before.)
        example = make_example(
            self._tokenizer, self._template, Conversation(messages=tuple(messages)), self._limit
        )
        self._count(len(example.input_ids), example.learned, example.cut)
        if not example.learned:
            raise Untellable(f"its answers begin beyond {self._limit} tokens")

    def _count(self, tokens: int, learned: int, cut: int) -> None:
        self.tally.tokens += tokens
        self.tally.learned_tokens += learned
        self.tally.cut += cut > 0
        self.tally.cut_tokens += cut


def _check(conversation: Conversation, where: str) -> None:
    if not conversation.messages:
        raise DataError(f"{where}: messages: is empty")
    if not any(message.role == "assistant" for message in conversation.messages):
        raise DataError(f"{where}: messages: no turn is the assistant's: there is nothing to learn")
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and not message.content.strip() and message.weight > 0:
            raise DataError(f"{where}: messages.{index}.content: is empty: leave it out, or give it weight 0")


def _split(conversation: Conversation, where: str) -> tuple[tuple[Message, ...], Message]:
    *prompt, last = conversation.messages
    if last.role != "assistant":
        raise DataError(f"{where}: messages: the last turn must be the assistant's: it is what was judged")
    if not prompt:
        raise DataError(f"{where}: messages: nothing comes before the answer")
    return tuple(prompt), last
