"""The steps of a curation, one after the other, over all conversations that are left; what each did is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from configs.curation import AlikeDuplicates, CurationRules, ExactDuplicates, NearDuplicates, Pii
from train.conversation import Conversation
from train.curate.decisions import Decision
from train.curate.duplicates import Pair, alike_pairs, exact_pairs, later_of_same, near_pairs
from train.curate.embedding import Embedder
from train.curate.filters import FILTERS
from train.curate.normal import told
from train.curate.pii.finder import Finder
from train.curate.pii.model import PiiModel
from train.curate.pii.replacing import Replacer


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, step: str, conversations: int, messages: int) -> None: ...

    def advance(self, conversations: int) -> None: ...

    def end(self) -> None: ...

    def note(self, message: str) -> None:
        """Something that the owner must hear: a step that is left out."""


class Silent:
    """Tells nobody."""

    def begin(self, step: str, conversations: int, messages: int) -> None:
        return

    def advance(self, conversations: int) -> None:
        return

    def end(self) -> None:
        return

    def note(self, message: str) -> None:
        return


@dataclass(frozen=True)
class Tools:
    """The models that steps need; None: the file is not here."""

    embedder: Embedder | None = None
    pii: PiiModel | None = None


@dataclass
class StepCount:
    """What a step did. `left_out` says why it did nothing."""

    step: str
    seen: int = 0
    dropped: int = 0
    changed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: str = ""


@dataclass
class Entry:
    """A conversation on its way: as it was read, as it is, and who left it out."""

    read: Conversation
    now: Conversation
    digest: str
    dropped_by: str = ""
    reason: str = ""

    @property
    def kept(self) -> bool:
        return not self.dropped_by


class Vectors:
    """Embeddings that were made, by what was embedded: an edited conversation needs another, the rest do not."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def of(self, conversations: Sequence[Conversation], progress: Progress) -> npt.NDArray[np.float32]:
        """Unit vectors (n, dimensions)."""
        texts = [told(each) for each in conversations]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        progress.advance(len(texts) - len(new))
        self._known.update(zip(new, self._embedder.embed(new, progress.advance), strict=True))
        if not texts:
            return np.zeros((0, self._embedder.dimensions), np.float32)
        return np.stack([self._known[text] for text in texts])


class Steps:
    """Runs them. `spared`: ids of those that no step leaves out, because the owner has said so."""

    def __init__(
        self, rules: CurationRules, tools: Tools, progress: Progress, spared: Collection[str] = frozenset()
    ) -> None:
        self._rules = rules
        self._tools = tools
        self._progress = progress
        self._spared = spared
        self.counts: list[StepCount] = []
        self.decisions: list[Decision] = []
        self.pii: Counter[str] = Counter()
        self.pairs: list[tuple[str, str, float]] = []
        """Ids of two that are near, and how near."""
        self.vectors = Vectors(tools.embedder) if tools.embedder is not None else None

    def run(self, conversations: Sequence[Conversation]) -> list[Entry]:
        """Every conversation with what became of it, in order."""
        entries = [Entry(each, each, each.digest()) for each in conversations]
        for rules in self._rules.steps:
            with self._step(rules.step, entries) as (count, left):
                if isinstance(rules, Pii):
                    self._replace(rules, count, left)
                elif isinstance(rules, ExactDuplicates):
                    self._exact(count, left)
                elif isinstance(rules, NearDuplicates):
                    self._near(rules, count, left)
                elif isinstance(rules, AlikeDuplicates):
                    self._alike(rules, count, left)
                else:
                    judge = FILTERS[rules.step](rules)
                    for entry in left:
                        verdict = judge(entry.now)
                        if verdict.conversation is None:
                            self._drop(entry, count, verdict.reason)
                        elif verdict.conversation is not entry.now:
                            self._change(entry, count, verdict.conversation, verdict.reason)
                        self._progress.advance(1)
        return entries

    @contextmanager
    def _step(self, name: str, entries: Sequence[Entry]) -> Iterator[tuple[StepCount, list[Entry]]]:
        left = [entry for entry in entries if entry.kept]
        count = StepCount(name, seen=len(left))
        self.counts.append(count)
        self._progress.begin(name, len(left), sum(len(entry.now.messages) for entry in left))
        yield count, left
        self._progress.end()
        if count.left_out:
            self._progress.note(f"The step {name} was left out: {count.left_out}")

    def _drop(self, entry: Entry, count: StepCount, reason: str, group: str = "") -> None:
        """`group`: what is counted, where the reason names one conversation."""
        if entry.now.id in self._spared:
            return
        entry.dropped_by, entry.reason = count.step, reason
        count.dropped += 1
        count.reasons[group or reason] += 1
        self._note(entry, count, "drop", reason)

    def _change(self, entry: Entry, count: StepCount, now: Conversation, reason: str) -> None:
        entry.now = now
        count.changed += 1
        count.reasons[reason] += 1
        self._note(entry, count, "change", reason)

    def _note(self, entry: Entry, count: StepCount, verdict: str, reason: str) -> None:
        self.decisions.append(
            Decision.model_validate(
                {
                    "by": count.step,
                    "conversation": entry.now.id,
                    "digest": entry.digest,
                    "verdict": verdict,
                    "reason": reason,
                }
            )
        )

    def _replace(self, rules: Pii, count: StepCount, left: Sequence[Entry]) -> None:
        model = self._tools.pii if rules.names == "model" else None
        if rules.names == "model" and model is None and "name" in rules.kinds:
            self._progress.note(
                "The model that knows names is not here: names are found by rules alone, which miss many. "
                "`groupqwen data curate` fetches it."
            )
        replaced = Replacer(Finder(rules, model)).replace([entry.now for entry in left])
        for entry, one in zip(left, replaced, strict=True):
            if one.counts:
                self.pii += one.counts
                told = ", ".join(f"{number} {kind}" for kind, number in sorted(one.counts.items()))
                entry.now = one.conversation
                count.changed += 1
                count.reasons.update(one.counts)
                self._note(entry, count, "change", f"replaced: {told}")
            self._progress.advance(1)

    def _exact(self, count: StepCount, left: Sequence[Entry]) -> None:
        conversations = [entry.now for entry in left]
        pairs = list(exact_pairs(conversations))
        gone = later_of_same(conversations, pairs, 1.0, keep_numbers=False)
        self._remember(left, pairs, gone)
        for at, pair in sorted(gone.items()):
            self._drop(left[at], count, f"the same as {left[pair.first].now.id}", "the same words as another")
        self._progress.advance(len(left))

    def _near(self, rules: NearDuplicates, count: StepCount, left: Sequence[Entry]) -> None:
        conversations = [entry.now for entry in left]
        pairs = list(near_pairs(conversations, rules.near, rules.letters, self._progress.advance))
        self._go(count, left, pairs, rules.same, rules.numbers, "nearly the same as")

    def _alike(self, rules: AlikeDuplicates, count: StepCount, left: Sequence[Entry]) -> None:
        if self.vectors is None:
            count.left_out = f"the embedder {self._rules.embedder} is not here: `bash scripts/up.sh` brings it"
            return
        if len(left) > rules.most:
            count.left_out = f"{len(left):,} conversations, and at most {rules.most:,} are compared by meaning"
            return
        conversations = [entry.now for entry in left]
        pairs = list(alike_pairs(self.vectors.of(conversations, self._progress), rules.near))
        self._go(count, left, pairs, rules.same, rules.numbers, "means the same as")

    def _go(
        self,
        count: StepCount,
        left: Sequence[Entry],
        pairs: Sequence[Pair],
        same: float,
        keep_numbers: bool,
        what: str,
    ) -> None:
        gone = later_of_same([entry.now for entry in left], pairs, same, keep_numbers)
        self._remember(left, pairs, gone)
        for at, pair in sorted(gone.items()):
            other = left[pair.first].now.id
            self._drop(left[at], count, f"{what} {other} ({pair.likeness:.3f})", f"{what} another")

    def _remember(self, left: Sequence[Entry], pairs: Sequence[Pair], gone: Collection[int]) -> None:
        for pair in pairs:
            ids = left[pair.first].now.id, left[pair.second].now.id
            if all(at not in gone or left[at].now.id in self._spared for at in (pair.first, pair.second)):
                self.pairs.append((*ids, pair.likeness))
