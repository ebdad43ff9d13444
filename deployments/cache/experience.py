"""What the cache has learned of its own answers: how its neighbours did, by partition, which entries say the
same, and which false hits may not return. Pure.

All of it is made of events (JSON objects), which are kept in Redis and applied again at the start.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.routing import CacheRules
from deployments.cache.answer import TURN, Near
from deployments.cache.certificate import CONFIDENCE, Certificate, InForce
from deployments.cache.guards import may_serve, objections
from deployments.cache.likeness import FEATURES, SHIPPED, Floats, Likeness, Neighbour, features_of
from deployments.cache.verified import CONFIDENCE as CONFIDENCE_BESIDE
from deployments.cache.verified import Verified

Event = dict[str, Any]

OWN = 300
"""Labels from which a partition is judged by its own; until then, by all of them together."""

MOST_VETOED = 5_000
"""Entries whose false hits are remembered, the newest."""

ALL = "all"
"""The partition that every first question belongs to."""


@dataclass(frozen=True)
class Verdict:
    """Which entry serves (None: none), and what was known: the entries that no veto speaks against, and of the
    nearest of them its features and P(same answer)."""

    serves: Near | None
    why: str
    near: tuple[Near, ...] = ()
    features: tuple[float, ...] | None = None
    likely: float | None = None
    doubtful: bool = False
    """Whether a verifier should be asked."""


class Experience:
    """Of one cache, by one embedder."""

    def __init__(self, rules: CacheRules) -> None:
        self._rules, self._prior = rules, SHIPPED
        self._certificates: dict[str, Certificate] = {}
        self._joined: dict[str, str] = {}
        self._record: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._vetoes: OrderedDict[str, list[Floats]] = OrderedDict()
        self._verified: dict[tuple[str, str], Verified] = {}

    def take(self, rules: CacheRules, prior: Likeness = SHIPPED) -> None:
        """Other rules, or another P(same answer) to begin with; what was learned stays."""
        self._rules, self._prior = rules, prior
        for certificate in self._certificates.values():
            certificate.take(rules.wrong_per_request, prior, self._confidence)

    def decide(self, asked: str, near: Sequence[Near], vector: Floats, partition: str) -> Verdict:
        """What may serve a question with this unit vector."""
        rules = self._rules
        if partition.endswith(TURN) and rules.mode != "certified":
            return Verdict(None, "a later turn is served by its own checks only")
        left = [one for one in near if not self.is_vetoed(one.entry, vector)]
        if not left:
            return Verdict(None, "vetoed" if near else "nothing is near")
        served = None
        if rules.mode == "fixed":
            served = next((one for one in left if may_serve(asked, one.query, one.distance, rules)), None)
            left = [*([served] if served else []), *(one for one in left if one is not served)]
        neighbours = [
            Neighbour(
                1 - one.distance,
                one.query,
                self.group(one.group),
                *self._record.get(self.group(one.group), (0, 0)),
            )
            for one in left
        ]
        features = features_of(asked, neighbours)
        certificate = self.certificate(partition)
        serves, likely = certificate.serves(features)
        known = (tuple(left), tuple(np.round(features, 4).tolist()), likely)
        if rules.mode == "fixed":
            return Verdict(
                served, f"within {rules.distance:g}" if served else "too far, or a guard objects", *known
            )
        best = left[0]
        plain = best.distance <= rules.strict_distance and not objections(asked, best.query)
        plain = plain and not partition.endswith(TURN)
        if plain and not certificate.refutes(1 - rules.strict_distance):
            return Verdict(best, "all but the same words", *known)
        why = f"P(same answer) {likely:.2f}"
        if rules.mode == "calibrated":
            serves = likely >= rules.likely and not (rules.guards and objections(asked, best.query))
        if serves:
            return Verdict(best, why if rules.mode == "calibrated" else f"{why}, certified", *known)
        doubtful = likely >= rules.doubtful and not partition.endswith(TURN)
        return Verdict(None, why, *known, doubtful=doubtful)

    @property
    def verifier_in_force(self) -> str | None:
        """The verifier with its thresholds: what was learned of another is not known of this one."""
        rules = self._rules
        return None if rules.verifier is None else f"{rules.verifier}|{rules.verified:g}|{rules.doubtful:g}"

    @property
    def _confidence(self) -> float:
        return CONFIDENCE if self._rules.verifier is None else CONFIDENCE_BESIDE

    def serves_verified(self, partition: str) -> bool:
        """Whether a verifier's yes to a doubtful question is enough."""
        if self._rules.mode == "calibrated":
            return True
        left = self._rules.wrong_per_request - self.certificate(partition).in_force.per_request
        return self._verified_of(partition).serves(left, self._doubtful(partition))

    def _doubtful(self, partition: str) -> Callable[[Floats], Floats]:
        """Which rows of features are neither served nor hopeless now."""
        certificate = self.certificate(partition)
        threshold = certificate.in_force.threshold
        most = 2.0 if threshold is None else threshold

        def doubtful(features: Floats) -> Floats:
            likely = certificate.likeness.probability(features)
            return np.asarray((likely >= self._rules.doubtful) & (likely < most))

        return doubtful

    def _verified_of(self, partition: str, by: str | None = None) -> Verified:
        return self._verified.setdefault((by or self.verifier_in_force or "", partition), Verified())

    def certificate(self, partition: str) -> Certificate:
        """The one that judges this partition: its own, once it has labels enough."""
        if partition.endswith(TURN):
            return self._of(partition)
        own = self._certificates.get(partition)
        return own if own is not None and own.labels >= OWN else self._of(ALL)

    def group(self, name: str) -> str:
        """The group that a group has become part of."""
        seen = name
        while seen in self._joined:
            seen = self._joined[seen]
        return seen

    def is_vetoed(self, entry: str, vector: Floats) -> bool:
        """Whether this entry was a false hit for a question that is nearly this one."""
        least = 1 - self._rules.veto_distance
        return any(float(one @ vector) >= least for one in self._vetoes.get(entry, ()))

    def vetoes(self, entry: str) -> int:
        """How many there are of an entry."""
        return len(self._vetoes.get(entry, ()))

    def apply(self, event: Event) -> None:
        """Learn one event. Raises `KeyError`, `ValueError` or `TypeError` for what is none."""
        kind = event["kind"]
        if kind == "saw":
            found = None if event["features"] is None else _checked(event["features"])
            for name in _judges(event["partition"]):
                self._of(name).saw(found)
            if event.get("by"):
                self._verified_of(event["partition"], event["by"]).saw(bool(event["verified"]))
        elif kind == "check":
            features = _checked(event["features"])
            for name in _judges(event["partition"]):
                self._of(name).learned(features, bool(event["same"]))
            if event.get("by"):
                self._verified_of(event["partition"], event["by"]).learned(features, bool(event["same"]))
            self._record[self.group(event["group"])][0 if event["same"] else 1] += 1
        elif kind == "join":
            into, other = self.group(event["into"]), self.group(event["group"])
            if into != other:
                self._joined[other] = into
                for index, count in enumerate(self._record.pop(other, [0, 0])):
                    self._record[into][index] += count
        elif kind == "veto":
            vector = np.frombuffer(base64.b64decode(event["vector"]), "<f4").astype(float)
            self._vetoes.setdefault(event["entry"], []).append(vector)
            if len(self._vetoes) > MOST_VETOED:
                self._vetoes.popitem(last=False)
        else:
            raise ValueError(f"an event of the kind {kind!r}")

    def hear(self, event: Event) -> None:
        """Learn what someone else has learned; what another version says is lost, and nothing else."""
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self.apply(event)

    def apply_all(self, events: Sequence[Event]) -> None:
        """Learn what was kept, and reckon once at the end."""
        for event in events:
            self.hear(event)
        for certificate in self._certificates.values():
            certificate.renew()

    @property
    def due(self) -> list[Certificate]:
        """Those that are to be reckoned anew, since enough was learned."""
        return [one for one in self._certificates.values() if one.due]

    async def renew(self) -> None:
        """Reckon anew what is due, in a thread."""
        for certificate in self.due:
            known = certificate.known()
            certificate.adopt(await asyncio.to_thread(certificate.reckoned, known))

    def report(self) -> dict[str, tuple[int, InForce]]:
        """How many checks there were, and what is in force, by partition."""
        return {name: (one.labels, one.in_force) for name, one in sorted(self._certificates.items())}

    def verifier(self, partitions: str) -> dict[str, dict[str, Any]]:
        """What is known of the verifier's yeses, in partitions of this beginning."""
        found = {}
        for (by, name), known in sorted(self._verified.items()):
            if by == self.verifier_in_force and name.startswith(partitions):
                doubtful = self._doubtful(name)
                labels, wrong = known.counted(doubtful)
                found[name] = {"labels": labels, "wrong": wrong, "per_request": known.per_request(doubtful)}
        return found

    def _of(self, partition: str) -> Certificate:
        if partition not in self._certificates:
            self._certificates[partition] = Certificate(
                self._rules.wrong_per_request, self._confidence, self._prior
            )
        return self._certificates[partition]


def _judges(partition: str) -> tuple[str, ...]:
    """The partitions that learn from what happens in one."""
    return (partition,) if partition.endswith(TURN) else (partition, ALL)


def _checked(features: Sequence[float]) -> Floats:
    """Features as they are kept. Raises `ValueError` for those of another version."""
    found = np.array(features, float)
    if found.shape != (len(FEATURES),) or not np.isfinite(found).all():
        raise ValueError("features of another version")
    return found


def saw(partition: str, features: Sequence[float] | None, by: str | None = None, verified: bool = False) -> Event:
    """A request came; `by`: the verifier in force, if one is; `verified`: whether it was asked and said yes."""
    known = None if features is None else list(features)
    return {"kind": "saw", "partition": partition, "features": known, "by": by, "verified": verified}


def check(partition: str, features: Sequence[float], group: str, same: bool, by: str | None = None) -> Event:
    """A request was answered afresh, and its nearest entry's answer says the same or not; `by`: the verifier that
    was asked about it and said yes, if one did."""
    known = {"partition": partition, "features": list(features), "group": group}
    return {"kind": "check", **known, "same": same, "by": by}


def join(group: str, into: str) -> Event:
    """Two groups' answers say the same."""
    return {"kind": "join", "group": group, "into": into}


def vetoed(event: Event) -> str | None:
    """The entry that an event speaks against."""
    return event.get("entry") if event.get("kind") == "veto" else None


def veto(entry: str, vector: bytes) -> Event:
    """An entry was a false hit for a question with this vector (float32, little-endian)."""
    return {"kind": "veto", "entry": entry, "vector": base64.b64encode(vector).decode()}
