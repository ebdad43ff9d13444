"""E-mail addresses and street addresses, by their form."""

from __future__ import annotations

import re
from collections.abc import Iterator

from train.curate.pii.found import Found

EMAIL = re.compile(
    r"(?<![\w.+%-])[\w](?:[\w.+%'-]{0,62}[\w+-])?(?:@|\s?[\[(]at[\])]\s?)"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.|\s?[\[(]dot[\])]\s?)){1,5}[^\W\d_]{2,24}(?![\w@])"
)
RESERVED = re.compile(r"(?i)(?:^|[.@])(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid))$")
NO_DOMAIN = re.compile(r"(?i)\.(?:png|jpe?g|gif|svg|webp|ico|js|ts|css|json|yaml|git)$")

_WORD = r"[A-ZÀ-Þ0-9][\w'’.-]{0,30}"
_UNIT = r"(?:,? (?:[Aa]pt|[Aa]partment|[Ss]uite|[Uu]nit|[Ff]lat|[Ff]loor|#)\.? ?#?\w{1,6})?"
STREETS = (
    re.compile(  # 12 Baker Street, Apt 4
        rf"(?<![\w.,/-])\d{{1,5}}[A-Za-z]?(?:-\d{{1,4}})?,? (?:(?:North|South|East|West|[NSEW]{{1,2}}\.?) )?"
        rf"(?:{_WORD} ){{1,4}}?(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|"
        rf"Square|Sq|Terrace|Ter|Way|Crescent|Close|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Grove|Gardens|Mews|Row)"
        rf"\b\.?{_UNIT}"
    ),
    re.compile(  # Hauptstraße 5a; Am Alten Markt 7
        r"(?<![\w-])(?:(?:[A-ZÄÖÜ][\wäöüß-]{0,30}[ -]){0,3}"
        r"(?:[A-ZÄÖÜ][a-zäöüß-]{1,30}(?:straße|strasse|str\.|gasse|weg|platz|allee|ring|ufer|damm|chaussee)"
        r"|(?:Straße|Strasse|Str\.|Gasse|Weg|Platz|Allee|Ring|Ufer|Damm))"
        r"|(?:Am|Im|An der|In der|Auf der|Zum|Zur) "
        r"(?!(?:\w+tag|Januar|Februar|März|April|Mai|Juni|Juli|August|\w+ber|Jahr|Ende|Anfang)\b)"
        r"(?:[A-ZÄÖÜ][a-zäöüß-]{2,30} ?){1,2}?)"
        r" \d{1,4} ?(?:[a-z]\b)?(?!\w|[.,:]\d)"
    ),
    re.compile(  # 14 bis rue de la Paix
        r"(?<![\w.,/-])\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|av\.|boulevard|bd|place|allée|chemin|impasse|"
        r"quai|cours|Rue|Avenue|Boulevard|Place|Quai) "
        r"(?:(?:de la|de l['’]|du|des|de|d['’]) ?)?(?:[A-ZÀ-Þ][\w'’-]{1,30} ?){1,3}"
        r"(?<! )"
    ),
    re.compile(  # Calle de Alcalá 42; Via Roma 3
        r"(?<!\w)(?:Calle|C/|Avenida|Avda\.|Plaza|Paseo|Via|Viale|Piazza|Rua) "
        r"(?:(?:de la|del|de los|de las|de|della|da|do) )?"
        r"(?:[A-ZÀ-Þ][\w'’-]{1,30} ?){1,3},? ?\d{1,4}(?!\w|[.,:]\d)"
    ),
)
EXAMPLES = re.compile(r"Example Street|Beispielstraße|rue de l'Exemple|Calle Ejemplo")


def emails(text: str) -> Iterator[Found]:
    """Not those of domains that are kept for examples, nor `git@` of a repository's address."""
    for match in EMAIL.finditer(text):
        told = match[0]
        plain = re.sub(r"(?i)\s?[\[(]at[\])]\s?", "@", re.sub(r"(?i)\s?[\[(]dot[\])]\s?", ".", told))
        local, _, domain = plain.partition("@")
        if RESERVED.search("@" + domain) or NO_DOMAIN.search(domain) or local.lower() == "git":
            continue
        yield Found(match.start(), match.end(), "email", told)


def street_addresses(text: str) -> Iterator[Found]:
    """A street with a number, in English, German, French, Spanish and Italian."""
    for pattern in STREETS:
        for match in pattern.finditer(text):
            if not EXAMPLES.search(match[0]):
                told = match[0].rstrip()
                yield Found(match.start(), match.start() + len(told), "street-address", told)
