"""Who is trained on and who is held back: whole clusters of conversations that are near to each other.

Were one of two near-duplicates trained on and the other held back, the held-out loss would praise memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from configs.curation import Split
from train.conversation import Conversation, DataError
from train.curate.duplicates import PERMUTATIONS, Pair, jaccard, pieces, sign
from train.curate.normal import question, same_words, told

MARGIN = 0.2
"""By how much MinHash may be wrong, of 256 permutations: more than six standard deviations."""
ROUNDS = 8
BLOCK = 8192
"""Conversations that are trained on, looked at together: their signatures take 8 MiB, their vectors of 384
numbers 12."""
AT_ONCE = 4 << 20
"""Cosines."""
TEXTS = 32
"""Whose pieces are kept."""


class LeakageError(DataError):
    """Something of the validation set is in the training set as well."""


@dataclass(frozen=True)
class Leak:
    """A conversation that is held back, one that is trained on, by their places, and what they share."""

    validation: int
    train: int
    why: str


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each place the smallest place that it hangs together with."""
    root = list(range(count))

    def top(at: int) -> int:
        while root[at] != at:
            root[at] = root[root[at]]
            at = root[at]
        return at

    for one, other in pairs:
        a, b = sorted((top(one), top(other)))
        root[b] = a
    return [top(at) for at in range(count)]


def split(conversations: Sequence[Conversation], pairs: Sequence[Pair], rules: Split) -> list[bool]:
    """Which are held back. Clusters go in the order of a hash, as long as they fit into the share."""
    edges = [(pair.first, pair.second) for pair in pairs]
    first: dict[str, int] = {}
    edges += [(first.setdefault(question(each), at), at) for at, each in enumerate(conversations)]
    of = clusters(len(conversations), edges)
    members: dict[int, list[int]] = {}
    for at, cluster in enumerate(of):
        members.setdefault(cluster, []).append(at)
    room = round(rules.validation * len(conversations))
    if rules.validation and len(members) > 1:
        room = max(1, room)
    held = [False] * len(conversations)
    for group in sorted(members.values(), key=lambda group: _key(conversations, group, rules.seed)):
        if len(group) <= room and len(members) > 1:
            room -= len(group)
            for at in group:
                held[at] = True
    return held


def _key(conversations: Sequence[Conversation], group: Sequence[int], seed: int) -> str:
    """Of a cluster: the same whatever else is in the dataset, and in whatever order."""
    least = min(same_words(conversations[at]) for at in group)
    return hashlib.sha256(f"{seed} {least}".encode()).hexdigest()


def split_without_leaks(
    conversations: Sequence[Conversation], pairs: Sequence[Pair], rules: Split, check: LeakCheck
) -> list[bool]:
    """Split, look, put together what was found on both sides. Raises `LeakageError` where that does not end."""
    known = list(pairs)
    for _ in range(ROUNDS):
        held = split(conversations, known, rules)
        leaks = check.leaks(conversations, held)
        if not leaks:
            break
        known += [Pair(leak.train, leak.validation, 1.0) for leak in leaks]
    raise_leaks(conversations, leaks)
    return held


def raise_leaks(conversations: Sequence[Conversation], leaks: Sequence[Leak]) -> None:
    """Raises `LeakageError` where there are some, naming the first."""
    if leaks:
        one = leaks[0]
        raise LeakageError(
            f"{len(leaks)} of the validation set are in the training set too; the first: "
            f"{conversations[one.validation].id} and {conversations[one.train].id} ({one.why})"
        )


@dataclass(frozen=True)
class LeakCheck:
    """Looks at both sides of a split, without the index by which it was made: everyone is compared with everyone.

    By blocks of both sides: beside the vectors and what is found it takes, however many are trained on, some 40
    MiB (a block's signatures or vectors, and `AT_ONCE` cosines), the pieces of `TEXTS` texts, and for each that is
    held back 1 KiB and its question.

    `near` and `letters` are of the step near-duplicates, `alike` and `vectors` of the step alike; None where there
    is no such step.
    """

    near: float | None = None
    letters: int = 5
    alike: float | None = None
    vectors: npt.NDArray[np.float32] | None = None

    def leaks(self, conversations: Sequence[Conversation], held: Sequence[bool]) -> list[Leak]:
        """What is on both sides, in order."""
        validation = [at for at, out in enumerate(held) if out]
        train = [at for at, out in enumerate(held) if not out]
        found = list(self._same(conversations, validation, train))
        if self.near is not None and validation and train:
            found += self._near(conversations, validation, train, self.near)
        if self.alike is not None and self.vectors is not None:
            found += self._alike(self.vectors, validation, train, self.alike)
        return sorted(found, key=lambda leak: (leak.validation, leak.train, leak.why))

    def _same(
        self, conversations: Sequence[Conversation], validation: Sequence[int], train: Sequence[int]
    ) -> Iterable[Leak]:
        for of, why in ((same_words, "the same words"), (question, "the same question")):
            asked = [of(conversations[at]) for at in validation]
            first: dict[str, int] = {}
            wanted = set(asked)
            for at in train:
                if (key := of(conversations[at])) in wanted:
                    first.setdefault(key, at)
            yield from (
                Leak(at, first[key], why) for at, key in zip(validation, asked, strict=True) if key in first
            )

    def _near(
        self, conversations: Sequence[Conversation], validation: Sequence[int], train: Sequence[int], near: float
    ) -> Iterable[Leak]:
        of = lru_cache(maxsize=TEXTS)(lambda at: pieces(told(conversations[at]), self.letters))

        def signatures(places: Sequence[int]) -> npt.NDArray[np.uint32]:
            made = np.empty((len(places), PERMUTATIONS), np.uint32)
            for row, at in enumerate(places):
                made[row] = sign(of(at)).hashvalues
            return made

        held = signatures(validation)
        for start in range(0, len(train), BLOCK):
            some = train[start : start + BLOCK]
            block = signatures(some)
            for at, signature in zip(validation, held, strict=True):
                common = (block == signature).sum(axis=1, dtype=np.uint16)
                for place in np.flatnonzero(common >= (near - MARGIN) * PERMUTATIONS):
                    likeness = jaccard(of(at), of(some[place]))
                    if likeness >= near:
                        yield Leak(at, some[place], f"near, {likeness:.3f}")

    def _alike(
        self, vectors: npt.NDArray[np.float32], validation: Sequence[int], train: Sequence[int], alike: float
    ) -> Iterable[Leak]:
        for start in range(0, len(train), BLOCK):
            some = train[start : start + BLOCK]
            others = vectors[some].T
            rows = max(1, AT_ONCE // len(some))
            for first in range(0, len(validation), rows):
                held = validation[first : first + rows]
                for v, t, likeness in _from(alike, vectors[held] @ others):
                    yield Leak(held[v], some[t], f"alike, {likeness:.3f}")


def _from(least: float, likeness: npt.NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    """Row, column and number of those that are large enough."""
    for row, column in np.argwhere(likeness >= least):
        yield int(row), int(column), float(likeness[row, column])
