"""What clients saw beside what the query log holds, request by request. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ANSWERED = frozenset({200})
FAILED = frozenset(range(400, 600))
"""An error event does not say its status."""

LEFT = frozenset({200, 499})
"""Of a client that went away; the answer may have ended before that was known."""

ASKED_ANEW = re.compile(r"-(?:check|fresh)$")
"""What the cache asks by itself, of a request that it has answered."""


@dataclass(frozen=True)
class Asked:
    """One request, as its client saw it. `mark`: its own, which its rows carry as `user`. `ids`: of the rows that
    it owes, all or none; `told`: what the client heard: a status, `error` or `left`. `statuses`: what the rows may
    say, `one_of`: what one of them has to say. `known`: whether its client learned its id, and so was answered."""

    mark: str
    kind: str
    ids: tuple[str, ...]
    told: str
    statuses: frozenset[int]
    one_of: frozenset[int] | None = None
    known: bool = True


@dataclass(frozen=True)
class Row:
    """Of the query log."""

    request_id: str
    mark: str
    status: int


@dataclass
class Tally:
    """Of one kind. `told`: how often clients heard what."""

    asked: int = 0
    answered: int = 0
    owed: int = 0
    rows: int = 0
    missing: int = 0
    twice: int = 0
    otherwise: int = 0
    told: Counter[str] = field(default_factory=Counter)


@dataclass
class Compared:
    """`wrong`: each row that is missing, twice, or says something else, in words. `strangers`: rows that no client
    knows; `anew`: those that the cache has asked for."""

    kinds: dict[str, Tally]
    wrong: list[str]
    strangers: list[str]
    anew: int

    @property
    def exact(self) -> bool:
        """Whether the log holds what was answered, and nothing else."""
        return not self.wrong and not self.strangers


def compare(asked: Sequence[Asked], rows: Iterable[Row]) -> Compared:
    """Every id once, with a status that its client would call right; and nothing that no client knows."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.request_id].append(row)
    kinds: dict[str, Tally] = defaultdict(Tally)
    wrong: list[str] = []
    unknown_ids = {one.mark: one for one in asked if not one.known}
    owed: set[str] = set()
    for one in asked:
        tally = kinds[one.kind]
        tally.asked += 1
        tally.told[one.told] += 1
        if one.known:
            tally.answered += 1
            tally.owed += len(one.ids)
            owed.update(one.ids)
            wrong += _faults(one, found, tally)
    anew, strangers = 0, []
    for identity, its in found.items():
        if identity in owed:
            continue
        stem = ASKED_ANEW.sub("", identity)
        its_asker = unknown_ids.get(its[0].mark)
        if stem != identity and stem in owed:
            anew += len(its)
        elif its_asker is not None:
            # (Whether it was heard of before its client left, nobody knows: one row or none.)
            tally = kinds[its_asker.kind]
            tally.rows += len(its)
            if len(its) > 1:
                tally.twice += 1
                wrong.append(f"{its_asker.kind}: {identity} is there {len(its)} times")
        else:
            strangers.append(f"{identity}: status {its[0].status}, of {its[0].mark or 'nobody'}")
    return Compared(dict(kinds), wrong, strangers, anew)


def _faults(one: Asked, found: Mapping[str, list[Row]], tally: Tally) -> list[str]:
    """What is wrong with the rows of one request, which are counted."""
    faults, said = [], set()
    for identity in one.ids:
        its = found.get(identity, [])
        tally.rows += len(its)
        said |= {row.status for row in its}
        if not its:
            tally.missing += 1
            faults.append(f"{one.kind}: {identity} is missing; its client was told {one.told}")
        elif len(its) > 1:
            tally.twice += 1
            faults.append(f"{one.kind}: {identity} is there {len(its)} times")
        elif its[0].status not in one.statuses or its[0].mark != one.mark:
            tally.otherwise += 1
            faults.append(
                f"{one.kind}: {identity} says {its[0].status} of {its[0].mark!r}; its client, {one.mark!r}, was "
                f"told {one.told}"
            )
    if not faults and one.one_of is not None and not said & one.one_of:
        tally.otherwise += 1
        faults.append(f"{one.kind}: none of {', '.join(one.ids)} says {sorted(one.one_of)} but {sorted(said)}")
    return faults
