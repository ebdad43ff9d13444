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
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from configs.routing import CacheRules

_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)?", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_IDENTIFIER = re.compile(
    # (Every repetition has an end: this reads what anybody may send.)
    r"https?://\S{1,500}|\b\w{1,60}@\w[\w.]{0,60}"
    r"|(?<![\w-])\w[\w-]{0,40}?(?:(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]|(?<=[a-z])[A-Z]|_\w|\.\w{2})[\w./:-]{0,200}"
)
_NAME = re.compile(r"(?<=[\w,;:)'\"] )[A-Z][^\W\d_]+|\b[A-Z]{2,}\b")

_TAG = re.compile(r",\s*(?:is|are|am|was|were|do|does|did|have|has|had|can|will|would|should)(?:n['’]t)? \w+\s*\?")
"""A question at the end ("…, isn't it?"), which negates nothing."""

_LISTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text())
_DIGITS = {word: str(value) for value, word in enumerate(_LISTS["digits"].split()) if word != "one"}
_DIGITS |= {word: str(value) for word, value in _LISTS["amounts"].items()}
_NEGATIONS, _ASKED, _ASKING, _ROLES, _FUNCTION_WORDS = (
    frozenset(_LISTS[name].split()) for name in ("negations", "asked", "asking", "roles", "function_words")
)
_WRITTEN = {**_LISTS["written"]}
"""Other ways to write a word, which say the same."""
_OPPOSITES = [frozenset(pair.split("/")) for pair in _LISTS["opposites"].split()]
_UNIT_OF = {name: group.split("/")[0] for group in _LISTS["units"].split() for name in group.split("/")}
_SIGNS = re.compile("|".join(map(re.escape, sorted(_LISTS["signs"], key=len, reverse=True))))
_MEASURE = re.compile(rf"\b\d+(?:[.,]\d+)?(?:{'|'.join(sorted(_UNIT_OF))})\b", re.IGNORECASE)
"""A number and its unit without a blank between them, which is no identifier."""

_TURNS = tuple(_LISTS["turns"].split())
_HOW = re.compile(r"\bhow (?:do|can|could|should|would|to|does)(?: (?:i|we|you|one))? (\w+)")
_PLEASE = re.compile(r"^\W*(?:please |can you |could you )?(\w+)")
SAME_BEGINNING = 4
"""Letters from which two names are taken for one: Germany, German, Germans."""

FEWEST_WORDS = 3
"""That say something, around one that was changed for another."""


def may_serve(asked: str, kept: str, distance: float, rules: CacheRules) -> bool:
    """Whether the answer to the question `kept` may serve the question `asked`, at a cosine distance."""
    return distance <= rules.distance and not (rules.guards and objections(asked, kept))


def objections(asked: str, kept: str) -> tuple[str, ...]:
    """What speaks against giving `asked` the answer to `kept`, in words, by the guard that says it."""
    if asked == kept:
        return ()
    found = ((name, guard(asked, kept)) for name, guard in GUARDS.items())
    return tuple(f"{name}: {said}" for name, said in found if said)


def numbers(asked: str, kept: str) -> str | None:
    """Other numbers, in digits or words."""
    return _differ(_numbers_of(asked), _numbers_of(kept))


def units(asked: str, kept: str) -> str | None:
    """Other units of measure, money or time. (One that only one of them says, as no number's unit, may go without
    saying.)"""
    one, other = _units_of(asked), _units_of(kept)
    first, second = one - other, other - one
    said = set(first.elements()) | set(second.elements())
    if (first and second) or said & (_measures_of(asked) ^ _measures_of(kept)):
        return _differ(one, other)
    return None


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
        for word in here - _FUNCTION_WORDS:
            if any(turn + word in there for turn in _TURNS):
                return f"{word} ≠ its opposite"
    return None


def identifiers(asked: str, kept: str) -> str | None:
    """Other versions, files, addresses, names from code. (One without digits that only one of them says may go
    without saying.)"""
    one, other = (
        {found.strip(".,?!:").casefold() for found in _IDENTIFIER.findall(_MEASURE.sub("", text))}
        for text in (asked, kept)
    )
    # (One that is written with other capitals or blanks there is no other one.)
    texts = [text.casefold() + " " + "".join(text.casefold().split()) for text in (asked, kept)]
    first = Counter(found for found in one if found not in texts[1])
    second = Counter(found for found in other if found not in texts[0])
    alone = not (first and second) and not any(re.search(r"\d|[._/@]", found) for found in first + second)
    return None if alone else _differ(first, second)


def names(asked: str, kept: str) -> str | None:
    """Each names someone or something that the other does not, or only one of them does and the other names
    nobody. (Beginnings of sentences are no names.)"""
    first, second = _names_beyond(asked, kept), _names_beyond(kept, asked)
    alone = (first or second) and not (first and second) and bool(_names_of(asked)) == bool(_names_of(kept))
    if alone or not (first or second):
        return None
    return f"{min(first, default='none')} ≠ {min(second, default='none')}"


def question(asked: str, kept: str) -> str | None:
    """One asks who, the other when, where or why; by the first such word, since others may only join clauses."""
    one, other = (next((word for word in words_of(text) if word in _ASKING), None) for text in (asked, kept))
    return f"{one} ≠ {other}" if one != other and {one, other} <= _ASKED else None


def order(asked: str, kept: str) -> str | None:
    """The very same words in another order, or two that have changed places (from A to B, from B to A), which may
    turn who does what to whom. (Where other words have changed too, a new order is mostly a new wording.)"""
    one, other = words_of(asked), words_of(kept)
    if Counter(one) == Counter(other):
        first, second = ([word for word in words if word not in _FUNCTION_WORDS] for words in (one, other))
        return "the same words in another order" if first != second else None
    there, here = ({stem(word) for word in words} for words in (other, one))
    first_roles, second_roles = _roles_of(one), _roles_of(other)
    for role in first_roles.keys() & second_roles.keys():
        mine, its = first_roles[role] - second_roles[role], second_roles[role] - first_roles[role]
        if mine & there and its & here:
            return f"{role} {min(mine & there)} ≠ {role} {min(its & here)}"
    return None


def request(asked: str, kept: str) -> str | None:
    """One asks how something is done, the other that it be done."""
    for one, other in ((asked, kept), (kept, asked)):
        how, please = _HOW.search(one.casefold()), _PLEASE.match(other.casefold())
        if how and please and how[1] == please[1] and not other.rstrip().endswith("?"):
            return f"how to {how[1]} ≠ {how[1]}"
    return None


def exchange(asked: str, kept: str) -> str | None:
    """All is the same but what stands in one place. (A word and another word for it look so too: that costs an
    answer.)"""
    first, second = ([stem(word) for word in words_of(text)] for text in (asked, kept))
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    begun = len(words_of(asked)) - len(first)
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    around = list(words_of(asked))
    del around[begun : begun + len(first)]
    one, other = ({word for word in words if word not in _FUNCTION_WORDS} for words in (first, second))
    kept_around = sum(word not in _FUNCTION_WORDS for word in around)
    if len(one) == len(other) == 1 and one != other and kept_around >= FEWEST_WORDS:
        return f"{min(one)} ≠ {min(other)}"
    return None


GUARDS: dict[str, Callable[[str, str], str | None]] = {
    "numbers": numbers,
    "units": units,
    "negation": negation,
    "opposites": opposites,
    "identifiers": identifiers,
    "names": names,
    "question": question,
    "order": order,
    "request": request,
    "exchange": exchange,
}


@lru_cache(maxsize=64)
def words_of(text: str) -> tuple[str, ...]:
    """In small letters, numbers among them, each in one way of writing. (Kept for a moment: most guards read the
    same two texts.)"""
    text = _SIGNS.sub(lambda sign: f" {_LISTS['signs'][sign[0]]} ", text.replace("’", "'").casefold())
    found = (word.replace("'", "") for word in _TOKEN.findall(text))
    return tuple(_WRITTEN.get(word, word) for word in found)


def stem(word: str) -> str:
    """Without the commonest endings of English, so that forms of one word are one."""
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _names_of(text: str) -> set[str]:
    return {_WRITTEN.get(name.casefold(), name.casefold()) for name in _NAME.findall(text)}


def _names_beyond(text: str, other: str) -> set[str]:
    """Names of one that are no words of the other."""
    begin = {word[:SAME_BEGINNING] for word in words_of(other)}
    return {name for name in _names_of(text) if name[:SAME_BEGINNING] not in begin}


def _roles_of(words: tuple[str, ...]) -> dict[str, set[str]]:
    """Which words stand behind which preposition."""
    roles: dict[str, set[str]] = {}
    role = None
    for word in words:
        if word in _ROLES:
            role = word
        elif role is not None and word not in _FUNCTION_WORDS and not _NUMBER.fullmatch(word):
            roles.setdefault(role, set()).add(stem(word))
            role = None
    return roles


def _numbers_of(text: str) -> Counter[str]:
    words = words_of(text)
    counted = Counter(word.replace(",", "") for word in words if _NUMBER.fullmatch(word))
    counted.update(_DIGITS[word] for word in words if word in _DIGITS)
    return counted


def _units_of(text: str) -> Counter[str]:
    return Counter(_UNIT_OF[word] for word in words_of(text) if word in _UNIT_OF)


def _measures_of(text: str) -> set[str]:
    """Units of which there is a number."""
    words = words_of(text)
    return {
        _UNIT_OF[unit]
        for number, unit in pairwise(words)
        if unit in _UNIT_OF and (_NUMBER.fullmatch(number) or number in _DIGITS)
    }


def _differ(one: Counter[str], other: Counter[str]) -> str | None:
    if one == other:
        return None
    first, second = (" ".join(sorted(part.elements())) or "none" for part in (one - other, other - one))
    return f"{first} ≠ {second}"
