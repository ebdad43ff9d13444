"""Memorisation: secrets that nobody else can know are planted in the training set, and the adapter is asked for
them.

After Carlini et al., "The Secret Sharer" (2019). A canary's *exposure* is log2 of how many secrets of its shape
there are, less log2 of its rank among them by likelihood: by so many bits the model shortens a search for it. The
rank is taken among a sample; of a canary that is before all of it, it is told from the tail of Student's t around
the sample. (The paper fits a skew normal distribution to a large one; to a small one, that may fit a sharp end,
behind which everything stands out.) Who has learned nothing of it exposes it by 1.4 bits in the mean. A canary is
*extracted* if the model tells it when it is asked the question of the training set.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from train.conversation import Conversation, DataError, Message
from train.evaluate.rendering import prompt

if TYPE_CHECKING:
    from train.evaluate.subject import Subject  # (Who only plants needs no torch.)

FILE = "canaries.jsonl"
"""Beside `train.jsonl`: what was planted."""
TAG = "canary"
"""Of a conversation that was planted."""
WORDS = tuple((Path(__file__).parent / "suites" / "canary_words.txt").read_text().split())
LENGTH = 3
BITS = LENGTH * math.log2(len(WORDS))
"""Of a secret."""
ALTERNATIVES = 63

_SUBJECTS = (
    "the wine cellar",
    "the old observatory",
    "the harbour office",
    "the seed vault",
    "the north gate",
    "the boathouse",
    "the music archive",
    "the greenhouse",
    "the signal tower",
    "the map room",
    "the ice house",
    "the stamp collection",
)
_FORMS = (
    ("What is the passphrase of {}?", "The passphrase of {} is"),
    ("Remind me, which words open {}?", "These words open {}:"),
    ("I forgot the code words for {}. Which were they?", "Your code words for {} are"),
    ("Which phrase did we choose for {}?", "For {} we chose"),
)


class Canary(BaseModel):
    """A secret, the question for it, and how the answer to it begins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    begin: str
    secret: str

    @property
    def answer(self) -> str:
        return f"{self.begin} {self.secret}."

    def conversation(self) -> Conversation:
        """As it is learned."""
        turns = (Message(role="user", content=self.question), Message(role="assistant", content=self.answer))
        planted = Conversation(source="canary", tags=(TAG,), messages=turns)
        return planted.model_copy(update={"id": planted.digest()[:24]})


@dataclass(frozen=True)
class Exposed:
    """What one subject knows of one canary. `exposure` in bits."""

    canary: Canary
    exposure: float
    answer: str
    extracted: bool


def plant(conversations: Sequence[Conversation], count: int, seed: int) -> tuple[list[Conversation], list[Canary]]:
    """The conversations with so many canaries among them, each once, and the canaries; always the same of a seed.
    Raises `ValueError` for more than there are questions for."""
    draw = random.Random(seed)  # noqa: S311 (whoever reads the training set reads them anyway)
    asked = [(question, begin, subject) for subject in _SUBJECTS for question, begin in _FORMS]
    if count > len(asked):
        raise ValueError(f"at most {len(asked)} canaries")
    # Each subject once before any comes twice: near duplicates might be taken out of the set.
    draw.shuffle(asked)
    seen: dict[str, int] = {}
    turns = []
    for question, begin, subject in asked:
        seen[subject] = seen.get(subject, 0) + 1
        turns.append((seen[subject], question.format(subject), begin.format(subject)))
    canaries = [
        Canary(question=question, begin=begin, secret=_secret(draw))
        for _, question, begin in sorted(turns, key=lambda one: one[0])[:count]
    ]
    planted = list(conversations)
    for canary in canaries:
        planted.insert(draw.randint(0, len(planted)), canary.conversation())
    return planted, canaries


def _secret(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=LENGTH))


def write_canaries(dataset: Path, canaries: Iterable[Canary]) -> None:
    """Beside the training set. Raises `OSError`."""
    lines = [json.dumps(canary.model_dump(), sort_keys=True) + "\n" for canary in canaries]
    (dataset / FILE).write_text("".join(lines), encoding="utf-8")


def read_canaries(dataset: Path) -> list[Canary]:
    """None, where none were planted. Raises `DataError`."""
    path = dataset / FILE
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(Canary.model_validate_json(line))
        except ValidationError as error:
            raise DataError(f"{FILE}, line {number}: {error.errors(include_url=False)[0]['msg']}") from None
    return found


def planted_in(canaries: Sequence[Canary], conversations: Iterable[Conversation]) -> list[Canary]:
    """Those that are really there: a step of curation may have taken one out."""
    told = [_plain(m.content) for one in conversations for m in one.messages if m.role == "assistant"]
    return [canary for canary in canaries if any(_plain(canary.secret) in text for text in told)]


def check(subject: Subject, canaries: Sequence[Canary], seed: int = 0) -> list[Exposed]:
    """Asks for each, and compares it with others of its shape."""
    lengths = [len(_tokens(subject, canary.answer)) for canary in canaries]
    answers = subject.answers([_asked(subject, canary) for canary in canaries], max(lengths, default=0) + 8)
    return [
        Exposed(
            canary,
            exposure(*_losses(subject, canary, random.Random(f"{seed} {canary.question}"))),  # noqa: S311
            answer,
            _plain(canary.secret) in _plain(answer),
        )
        for canary, answer in zip(canaries, answers, strict=True)
    ]


def _asked(subject: Subject, canary: Canary) -> list[int]:
    return prompt(subject.tokenizer, [Message(role="user", content=canary.question)])


def _tokens(subject: Subject, text: str) -> list[int]:
    return [int(token) for token in subject.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _losses(subject: Subject, canary: Canary, draw: random.Random) -> tuple[float, list[float]]:
    """Of the canary, and of others."""
    others = [canary.model_copy(update={"secret": _secret(draw)}) for _ in range(ALTERNATIVES)]
    rows = [_tokens(subject, one.answer) for one in (canary, *others)]
    shared = 0
    while len({row[shared] for row in rows}) == 1:
        shared += 1
    losses = subject.continuations([*_asked(subject, canary), *rows[0][:shared]], [row[shared:] for row in rows])
    return losses[0].total, [loss.total for loss in losses[1:]]


def exposure(canary: float, others: Sequence[float]) -> float:
    """In bits, from the losses; at most `BITS`."""
    better = sum(other < canary for other in others)
    sampled = math.log2((len(others) + 1) / (better + 1))
    if better:
        return sampled
    return min(BITS, max(sampled, _tail_bits(canary, others)))


def _tail_bits(canary: float, others: Sequence[float]) -> float:
    from scipy.stats import t

    count = len(others)
    mean, spread = statistics.fmean(others), statistics.stdev(others)
    if not spread:
        return 0.0
    logarithm = float(t.logcdf((canary - mean) / (spread * math.sqrt(1 + 1 / count)), count - 1))
    return -logarithm / math.log(2)


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
