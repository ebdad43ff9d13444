"""Names of people, by what is said around them; and where else in a conversation they stand.

The rules take what a model may miss (or all there is, without one): who introduces himself, who is greeted, who
signs. They are for English, German, French and Spanish.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from train.curate.pii.found import Found

_PART = r"(?:[A-ZÀ-Þ][\w'’]{1,24}(?:-[A-ZÀ-Þ][\w'’]{1,24})?)"
_NAME = rf"(?P<name>{_PART}(?:[ ](?:(?:van|von|de|der|den|del|la|bin|al|da|dos|ter|zu)[ ]){{0,2}}{_PART}){{0,3}})"
RULES = (
    re.compile(
        r"\b(?:[Mm]y (?:full |first |last |real )?name is|[Mm]y name['’]s|[Nn]ame: |I am called|I'm called|"
        r"[Tt]his is(?= \S+ (?:speaking|from|here))|[Mm]ein Name ist|[Ii]ch hei(?:ß|ss)e|[Jj]e m['’]appelle|"
        r"[Mm]e llamo|[Mm]i nombre es)[: ]{1,2}" + _NAME
    ),
    re.compile(
        r"\b(?:[Mm]y (?:wife|husband|son|daughter|mother|father|mom|mum|dad|brother|sister|boss|manager|colleague|"
        r"coworker|friend|neighbou?r|doctor|landlord|partner|girlfriend|boyfriend|cousin|uncle|aunt)|"
        r"[Mm]ein(?:e|er|em|en)? (?:Frau|Mann|Sohn|Tochter|Mutter|Vater|Bruder|Schwester|Chef|Chefin|Kollege|"
        r"Kollegin|Freund|Freundin|Nachbar|Nachbarin))(?:,| is)? " + _NAME
    ),
    re.compile(
        r"(?m)^[ >\t]*(?:Dear|Hi|Hello|Hey|Liebe|Lieber|Hallo|Cher|Chère|Bonjour|Hola|Querida|Querido|"
        r"(?:Sehr geehrte[r]?))(?: (?:Mr|Mrs|Ms|Dr|Prof|Herr|Frau|Madame|Monsieur|Señor|Señora)\.?){0,2} "
        + _NAME
        + r"(?=[ ]?[,!:.]|[ ]*$)"
    ),
    re.compile(
        r"(?mi:^[ >\t]*(?:(?:best|kind|warm) )?(?:regards|wishes|sincerely|cheers|yours(?: truly| sincerely|"
        r" faithfully)?|thanks|thank you|many thanks|best|love|mit freundlichen grüßen|freundliche grüße|"
        r"viele grüße|liebe grüße|beste grüße|cordialement|bien à vous|saludos|un saludo|atentamente)[,.!]?[ ]*"
        r"\n\s{0,4})" + _NAME + r"(?=[ .,]*(?:\n|$))"
    ),
)
TITLES = re.compile(rf"\b(?:Mr|Mrs|Ms|Mx|Dr|Prof|Herr|Herrn|Frau|Mme|Señora|Señor|Sra|Sr)\b\.? {_NAME}")
"""Without a model only: it knows Dr. Watson from the owner's doctor."""

WORDS = {
    name: tuple(words.split())
    for name, words in yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")).items()
}
NO_NAMES = frozenset(WORDS["no_names"])
ALSO_WORDS = frozenset(WORDS["also_words"])
LEAST = 3
"""Letters of a name that is looked for elsewhere."""


def names_by_rules(text: str, titles: bool) -> Iterator[Found]:
    """Those that somebody is said to have. `titles`: also whoever has a title."""
    for rule in (*RULES, *([TITLES] if titles else [])):
        for match in rule.finditer(text):
            told = _trimmed(match["name"])
            if told:
                start = match.start("name")
                yield Found(start, start + len(told), "name", told)


def _trimmed(name: str) -> str:
    """Up to the first word that is no name."""
    kept: list[str] = []
    for part in name.split(" "):
        if part.lower().removesuffix("'s") in NO_NAMES:
            break
        kept.append(part)
    return re.sub(r"['’]s$", "", " ".join(kept))


def known_names(text: str, known: Iterable[str]) -> Iterator[Found]:
    """Where names that were found elsewhere in the conversation stand, whole."""
    told = sorted({name for name in known if name}, key=lambda name: (-len(name), name))
    if not told:
        return
    for match in re.finditer(rf"(?<![\w-])(?:{'|'.join(map(re.escape, told))})(?![\w-])", text):
        yield Found(match.start(), match.end(), "name", match[0])


def spread(found: Iterable[str]) -> set[str]:
    """What to look for elsewhere, once these were found: the whole, and each part that is no word as well."""
    wanted: set[str] = set()
    for name in found:
        parts = [part for part in name.split() if part[:1].isupper()]
        if len(parts) > 1:
            wanted |= {name, name.upper()}
        for part in parts:
            if len(part) >= LEAST and part.lower() not in ALSO_WORDS and part.lower() not in NO_NAMES:
                wanted |= {part, part.upper()}
    return wanted
