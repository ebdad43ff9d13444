"""All that finds personal information, put together: what is looked for, in which order, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from configs.curation import Pii
from train.curate.pii import numbers, places, secrets
from train.curate.pii.found import Found, without_overlaps
from train.curate.pii.model import Labelled, PiiModel
from train.curate.pii.names import NO_NAMES, known_names, names_by_rules

CODE = re.compile(r"```[\s\S]*?(?:```|\Z)")
IDENTITY = ("PASSPORT", "DRIVERS_LICENSE", "GOVERNMENT_ID", "TAX_ID")
OURS = re.compile(r"(?:000-00-0|[0X]{4,}\d{0,3}$|[0X-]{4,}\d{0,3}$)")


class Finder:
    """Finds what `rules` ask for. Without `model` names are found by rules alone, and streets by their form."""

    def __init__(self, rules: Pii, model: PiiModel | None) -> None:
        self._rules = rules
        self._kinds = set(rules.kinds)
        self._model = model
        self._keep = {text.casefold() for text in rules.keep}
        self.always = frozenset(rules.replace)

    def find(self, texts: Sequence[str]) -> list[list[Found]]:
        """What is in each, in order, without overlaps."""
        model = self._model
        labelled: list[list[Labelled]] = [[] for _ in texts]
        if model is not None and self._kinds & {"name", "street-address", "government-id", "phone"}:
            # (Code has variables, whose names the model takes for people's.)
            labelled = model.label([CODE.sub(lambda m: " " * len(m[0]), text) for text in texts])
        return [
            without_overlaps(each for each in self._all(text, labels) if self._wanted(each))
            for text, labels in zip(texts, labelled, strict=True)
        ]

    def _wanted(self, found: Found) -> bool:
        return found.kind in self._kinds and bool(found.text.strip()) and found.text.casefold() not in self._keep

    def _all(self, text: str, labels: Sequence[Labelled]) -> Iterator[Found]:
        yield from secrets.secrets(text)
        yield from secrets.passwords(text)
        yield from places.emails(text)
        yield from numbers.cards(text)
        yield from numbers.ibans(text)
        yield from numbers.ip_addresses(text, self._rules.private_addresses)
        yield from numbers.phones(text, self._rules.regions)
        for found in numbers.government_ids(text):
            if not OURS.match(found.text):
                yield found
        yield from places.street_addresses(text)
        yield from self._names(text, labels)
        yield from _streets_of(text, labels)
        yield from _identities_of(text, labels)

    def _names(self, text: str, labels: Sequence[Labelled]) -> Iterator[Found]:
        yield from known_names(text, self._rules.replace)
        yield from names_by_rules(text, titles=self._model is None)
        yield from _names_of(text, labels)


def _names_of(text: str, labels: Sequence[Labelled]) -> Iterator[Found]:
    """Given and family names that stand together are one."""
    now: tuple[int, int] | None = None
    for each in labels:
        if each.label not in ("GIVEN_NAME", "SURNAME"):
            continue
        start, end = _whole_word(text, each.start, each.end)
        if now is not None and text[now[1] : start] in (" ", "") and end > now[1]:
            now = (now[0], end)
            continue
        if now is not None:
            yield from _name(text, *now)
        now = (start, end)
    if now is not None:
        yield from _name(text, *now)


def _name(text: str, start: int, end: int) -> Iterator[Found]:
    # "im maria": the model takes what comes before with it.
    while (first := text[start:end].split(" ", 1))[0].lower() in NO_NAMES and len(first) == 2:
        start += len(first[0]) + 1
    told = text[start:end]
    if told.lower() not in NO_NAMES and any(c.isalpha() for c in told):
        yield Found(start, end, "name", told)


def _whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """The model tells pieces of words."""
    while start and (text[start - 1].isalpha() or text[start - 1] == "-") and not _no_spaces(text[start]):
        start -= 1
    while end < len(text) and text[end].isalpha() and not _no_spaces(text[end - 1]):
        end += 1
    return start, end


def _no_spaces(letter: str) -> bool:
    return letter >= "\u2e80"


def _streets_of(text: str, labels: Sequence[Labelled]) -> Iterator[Found]:
    """A street and a number side by side, as the model sees them."""
    parts = [each for each in labels if each.label in ("BUILDING_NUMBER", "STREET_NAME", "SECONDARY_ADDRESS")]
    group: list[Labelled] = []
    for each in [*parts, None]:
        if each is not None and (not group or each.start - group[-1].end <= 3):
            group.append(each)
            continue
        if {"BUILDING_NUMBER", "STREET_NAME"} <= {one.label for one in group}:
            start, end = group[0].start, group[-1].end
            if not places.EXAMPLES.search(text[start : end + 20]):
                yield Found(start, end, "street-address", text[start:end])
        group = [each] if each is not None else []


def _identities_of(text: str, labels: Sequence[Labelled]) -> Iterator[Found]:
    """Passports, licences and tax numbers: what the model takes for one, and the text says to be one."""
    for each in labels:
        told = text[each.start : each.end]
        digits = sum(c.isdigit() for c in told)
        if each.label in IDENTITY and digits >= 4 and not OURS.match(told):
            if numbers.SAID_IDENTITY.search(text, max(0, each.start - 60), each.start):
                yield Found(each.start, each.end, "government-id", told)
        elif (
            each.label == "PHONE"
            and digits >= 7
            and numbers.SAID.search(text, max(0, each.start - 60), each.start)
        ):
            around = text[max(0, each.start - 12) : each.end + 12]
            if not numbers.DRAMA.search(around):
                yield Found(each.start, each.end, "phone", told)
