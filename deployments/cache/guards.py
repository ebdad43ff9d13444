"""What two questions must have in common before the answer to one may serve the other. Pure.

A similar wording is a small distance whatever it says: "in 3 days" lies beside "in 5 days", "should I" beside
"should I not", "from Rome to Paris" beside "from Paris to Rome". Each guard looks for one such difference in the
text itself; what it finds speaks against serving, whatever the distance. A guard that finds nothing says nothing.
The words that they know (`words.yaml`) are English; numbers, identifiers, names and order need none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from configs.routing import CacheRules

_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*%?|[^\W\d_]+(?:'[^\W\d_]+)?", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*%?")
_IDENTIFIER = re.compile(
    r"https?://\S+|\b\w+@\w[\w.]*|(?<!\w)[\w-]*(?:[A-Za-z]\d|\d[A-Za-z]|[a-z][A-Z]|\w_\w|\w\.\w{2,})[\w./:-]*"
)
_NAME = re.compile(r"(?<=[\w,;:)'\"] )[A-Z][^\W\d_]+|\b[A-Z]{2,}\b")

_TAG = re.compile(r",\s*(?:is|are|am|was|were|do|does|did|have|has|had|can|will|would|should)(?:n['’]t)? \w+\s*\?")
"""A question at the end ("…, isn't it?"), which negates nothing."""

_LISTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text())
_DIGITS = {word: str(value) for value, word in enumerate(_LISTS["digits"].split()) if word != "one"}
_DIGITS |= {word: str(value) for word, value in _LISTS["amounts"].items()}
_NEGATIONS, _ASKED, _FUNCTION_WORDS = (
    frozenset(_LISTS[name].split()) for name in ("negations", "asked", "function_words")
)
_OPPOSITES = [frozenset(pair.split("/")) for pair in _LISTS["opposites"].split()]
_UNIT_OF = {name: group.split("/")[0] for group in _LISTS["units"].split() for name in group.split("/")}
_MEASURE = re.compile(rf"\b\d+(?:[.,]\d+)?(?:{'|'.join(sorted(_UNIT_OF))})\b", re.IGNORECASE)
"""A number and its unit without a blank between them, which is no identifier."""

_TURNS = tuple(_LISTS["turns"].split())


def may_serve(asked: str, kept: str, distance: float, rules: CacheRules) -> bool:
    """Whether the answer to the question `kept` may serve the question `asked`, at a cosine distance."""
    return distance <= rules.distance and not (rules.guards and objections(asked, kept))


def objections(asked: str, kept: str) -> tuple[str, ...]:
    """What speaks against giving `asked` the answer to `kept`, in words, by the guard that says it."""
    found = ((name, guard(asked, kept)) for name, guard in GUARDS.items())
    return tuple(f"{name}: {said}" for name, said in found if said)


def numbers(asked: str, kept: str) -> str | None:
    """Other numbers, in digits or words."""
    return _differ(_numbers_of(asked), _numbers_of(kept))


def units(asked: str, kept: str) -> str | None:
    """Other units of measure, money or time."""
    one, other = (Counter(_UNIT_OF[word] for word in words_of(text) if word in _UNIT_OF) for text in (asked, kept))
    return _differ(one, other)


def negation(asked: str, kept: str) -> str | None:
    """One of them says no, or not, and the other does not."""
    odd = [sum(word in _NEGATIONS for word in words_of(_TAG.sub("", text))) % 2 for text in (asked, kept)]
    return "only one of them negates" if odd[0] != odd[1] else None


def opposites(asked: str, kept: str) -> str | None:
    """One says a word and the other its opposite in its place."""
    one, other = set(words_of(asked)), set(words_of(kept))
    for pair in _OPPOSITES:
        first, second = (pair & one) - other, (pair & other) - one
        if first and second:
            return f"{min(first)} ≠ {min(second)}"
    for here, there in ((one - other, other - one), (other - one, one - other)):
        for word in here:
            if any(turn + word in there for turn in _TURNS):
                return f"{word} ≠ its opposite"
    return None


def identifiers(asked: str, kept: str) -> str | None:
    """Other versions, files, addresses, names from code."""
    one, other = (
        {found.strip(".,?!:").casefold() for found in _IDENTIFIER.findall(_MEASURE.sub("", text))}
        for text in (asked, kept)
    )
    # (One that is written with other capitals there is no other one.)
    first = Counter(found for found in one if found not in kept.casefold())
    second = Counter(found for found in other if found not in asked.casefold())
    return _differ(first, second)


def names(asked: str, kept: str) -> str | None:
    """Each names someone or something that the other does not. (Beginnings of sentences are no names.)"""
    texts = asked.casefold(), kept.casefold()
    one, other = ({name.casefold() for name in _NAME.findall(text)} for text in (asked, kept))
    first = {name for name in one if name not in texts[1]}
    second = {name for name in other if name not in texts[0]}
    return f"{min(first)} ≠ {min(second)}" if first and second else None


def question(asked: str, kept: str) -> str | None:
    """One asks who, the other when, where or why."""
    one, other = (_ASKED & set(words_of(text)) for text in (asked, kept))
    return f"{min(one)} ≠ {min(other)}" if one and other and not one & other else None


def order(asked: str, kept: str) -> str | None:
    """The very same words in another order, which may turn who does what to whom. (Where other words have changed
    too, a new order is mostly a new wording.)"""
    one, other = words_of(asked), words_of(kept)
    if Counter(one) != Counter(other):
        return None
    first, second = ([word for word in words if word not in _FUNCTION_WORDS] for words in (one, other))
    return "the same words in another order" if first != second else None


GUARDS: dict[str, Callable[[str, str], str | None]] = {
    "numbers": numbers,
    "units": units,
    "negation": negation,
    "opposites": opposites,
    "identifiers": identifiers,
    "names": names,
    "question": question,
    "order": order,
}


@lru_cache(maxsize=64)
def words_of(text: str) -> tuple[str, ...]:
    """In small letters, numbers among them. (Kept for a moment: most guards read the same two texts.)"""
    return tuple(word.replace("'", "") for word in _TOKEN.findall(text.replace("’", "'").casefold()))


def _numbers_of(text: str) -> Counter[str]:
    words = words_of(text)
    counted = Counter(word.replace(",", "") for word in words if _NUMBER.fullmatch(word))
    counted.update(_DIGITS[word] for word in words if word in _DIGITS)
    return counted


def _differ(one: Counter[str], other: Counter[str]) -> str | None:
    if one == other:
        return None
    first, second = (" ".join(sorted(part.elements())) or "none" for part in (one - other, other - one))
    return f"{first} ≠ {second}"
