"""Each form of an adapter is loaded and asked before it is called good.

The first asked is the adapter itself, in PEFT, on the model that it was trained on: what it answers, and what it
changes, is what all other forms are held against. Everything runs in children, within limits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.conversation import DataError, read_conversations
from train.publish import children
from train.publish.errors import ExportError
from train.publish.likeness import Likeness, liken
from train.publish.sizes import bytes_of

MOST_TOKENS = 24
"""Of an answer."""
MOST_QUESTION = 500
"""Characters of a question."""
A_QUESTION = "What is the capital of France? Answer in one sentence."

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What a form said, and how that is like the adapter."""

    text: str
    tokens: list[int]
    likeness: Likeness


@dataclass(frozen=True)
class Reference:
    """The adapter in PEFT: the question, what it said, and its logits with and without."""

    question: str
    answer: str
    prompt: list[int]
    tokens: list[int]
    tuned: Logits
    base: Logits
    scratch: Path

    @property
    def changes(self) -> float:
        """Root mean square of what the adapter changes of the logits."""
        return liken(self.tuned, self.base, self.tuned, self.base).change

    def in_transformers(self, model: Path, paths: tuple[Path, ...] = ()) -> Answer:
        """A merged model, asked. Raises `ExportError`."""
        given = {"weights": str(model), "peft": None, **self._along}
        return self._asked("train.publish.asking:ask", given | {"question": self.question}, bytes_of(model), paths)

    def in_llama(self, model: Path, adapter: Path | None, threads: int) -> Answer:
        """A GGUF model, or a GGUF adapter on it. Raises `ExportError`."""
        given = {"model": str(model), "adapter": adapter and str(adapter), "threads": threads, **self._along}
        return self._asked("train.publish.asking_llama:ask", given, bytes_of(model), ())

    @property
    def _along(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "tokens": self.tokens, "most_tokens": MOST_TOKENS}

    def _asked(self, function: str, given: dict[str, Any], size: int, paths: tuple[Path, ...]) -> Answer:
        logits = self.scratch / "form.npz"
        said = children.call(function, {**given, "logits": str(logits)}, children.limits_for(size), paths)
        with np.load(logits) as kept:
            likeness = liken(self.tuned, self.base, kept["tuned"], kept.get("base"))
        return Answer(said["answer"], said["tokens"], likeness)


@contextmanager
def reference(weights: Path, peft: Path, question: str) -> Iterator[Reference]:
    """Ask the adapter in PEFT. Raises `ExportError`: it cannot be loaded, or it changes nothing."""
    with tempfile.TemporaryDirectory(prefix="groupqwen-asking-") as folder:
        scratch = Path(folder)
        logits = scratch / "reference.npz"
        given = {"weights": str(weights), "peft": str(peft), "question": question, "most_tokens": MOST_TOKENS}
        limits = children.limits_for(bytes_of(weights) + bytes_of(peft))
        said = children.call("train.publish.asking:ask", {**given, "logits": str(logits)}, limits)
        with np.load(logits) as kept:
            tuned, base = kept["tuned"], kept["base"]
        asked = Reference(question, said["answer"], said["prompt"], said["tokens"], tuned, base, scratch)
        if not asked.changes:
            raise ExportError("the adapter changes nothing: it was not trained")
        yield asked


def a_question(dataset: Path) -> str:
    """One that it was trained for: the first that is asked in the validation set, else in the training set."""
    for name in ("validation.jsonl", "train.jsonl"):
        try:
            for conversation in read_conversations(dataset / name):
                for message in conversation.messages:
                    if message.role == "user" and 0 < len(message.content.strip()) <= MOST_QUESTION:
                        return message.content.strip()
        except (OSError, DataError):
            continue
    return A_QUESTION


def refuse_unless_exact(answer: Answer) -> None:
    """Of whole weights: it does what the adapter does. Raises `ExportError`."""
    if not answer.likeness.is_exact:
        raise ExportError(f"it does not do what the adapter does: {answer.likeness}")


def refuse_unless_near(answer: Answer) -> None:
    """Of few bits: it is nearer to the tuned model than to its base. Raises `ExportError`."""
    if not answer.likeness.is_near:
        raise ExportError(f"too little of the adapter is left in it: {answer.likeness}")
