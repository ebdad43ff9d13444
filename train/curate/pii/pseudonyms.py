"""What stands in for personal information: of the same kind and shape, and nobody's.

Where there is something that is kept for examples, it is that: RFC 2606's domains, RFC 5737's and 3849's
addresses, the numbers that countries keep for films. Elsewhere a check digit is wrong on purpose. The finder knows
all of these, so that nothing is replaced twice. No name is nobody's: a conversation's own are known by having
been given in it, and its tag says so to whoever looks again. Within it the same gives the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count

from stdnum import luhn

from configs.curation import Kind
from train.curate.pii.found import Found
from train.curate.pii.names import WORDS
from train.curate.pii.secrets import EXAMPLE

GIVEN = WORDS["given"]
FAMILY = WORDS["family"]
POOL = frozenset(GIVEN) | frozenset(FAMILY)
TAG = "pseudonyms"
"""Of a conversation in which some stand for names."""
AREAS = ("202", "303", "404", "505", "606", "707", "808", "909")


class Pseudonyms:
    """Those of one conversation. `taken` says what is not to stand for anything, as it stands in the conversation
    itself; `before`: names that were given in it at an earlier time."""

    def __init__(self, taken: Callable[[str], bool], before: frozenset[str] = frozenset()) -> None:
        self._taken = taken
        self._before = before
        self._known: dict[tuple[str, str], str] = {}
        self._counts: dict[str, Iterator[int]] = {}
        self._given: set[str] = set()

    def of(self, found: Found) -> str:
        """What stands in for it."""
        if found.kind == "name":
            return self._name(found.text)
        key = _key(found)
        number = self._known.get((found.kind, key))
        if number is None:
            number = str(self._next(found))
            self._known[found.kind, key] = number
        return MAKERS[found.kind](int(number), found.text)

    def _next(self, found: Found) -> int:
        counter = self._counts.setdefault(found.kind, count(1))
        return next(n for n in counter if not self._taken(MAKERS[found.kind](n, found.text)))

    def _name(self, name: str) -> str:
        """Part by part: who is called by the first name alone is the same person still."""
        parts = name.split()
        told = []
        for at, part in enumerate(parts):
            if not part[:1].isupper():
                continue  # `van`, `de`: it would tell of the name.
            pool = "family" if at and at == len(parts) - 1 else "given"
            told.append(self._name_part(part, pool))
        return " ".join(told) or self._name_part(name, "given")

    def _name_part(self, part: str, pool: str) -> str:
        capitals = len(part) > 1 and part.isupper()
        key = part.title() if capitals else part
        known = self._known.get(("name", key))
        if known is None:
            if self._is_ours(part):
                known = key
            else:
                words = GIVEN if pool == "given" else FAMILY
                counter = self._counts.setdefault(pool, count())
                options = (
                    words[n % len(words)] + (str(n // len(words)) if n >= len(words) else "") for n in counter
                )
                known = next(word for word in options if not self._taken(word) and word not in self._given)
                self._given.add(known)
            self._known["name", key] = known
        return known.upper() if capitals else known

    def are(self, name: str) -> bool:
        """Whether every part of a name is one of them."""
        return all(map(self._is_ours, name.split()))

    def _is_ours(self, part: str) -> bool:
        word = part.title()
        return word in self._given or word.rstrip("0123456789") in self._before

    @property
    def names(self) -> bool:
        """Whether any were given for names."""
        return bool(self._given)


def _key(found: Found) -> str:
    """What two ways of writing the same have in common."""
    if found.kind in ("phone", "card", "government-id"):
        return re.sub(r"\W", "", found.text).upper()
    if found.kind in ("email", "iban", "street-address"):
        return re.sub(r"\s+", " " if found.kind == "street-address" else "", found.text).casefold()
    return found.text


def _email(n: int, text: str) -> str:
    return f"person{n}@example.com"


def _phone(n: int, text: str) -> str:
    digits = re.sub(r"\D", "", text)
    if text.startswith("+"):
        country = next((code for code in ("1", "44", "49") if digits.startswith(code)), "999")
    else:
        country = (
            "1" if re.sub(r"\D", "", text)[:1] != "0" else "44" if digits.startswith(("01", "02", "07")) else "49"
        )
    plus = text.startswith("+")
    if country == "1":
        area = AREAS[n // 100 % len(AREAS)]
        if plus:
            return f"+1 {area}-555-01{n % 100:02d}"
        return f"({area}) 555-01{n % 100:02d}" if "(" in text else f"{area}-555-01{n % 100:02d}"
    if country == "44":
        return f"{'+44 20' if plus else '020'} 7946 0{n % 1000:03d}"
    if country == "49":
        return f"{'+49 30' if plus else '030'} 23125 {n % 1000:03d}"
    return f"+999 555 0{n % 1000:03d}"


def _laid_out(digits: str, like: str) -> str:
    """`digits` with the gaps of `like`, as far as it goes."""
    rest = iter(digits)
    return "".join(next(rest, "") if c.isalnum() else c for c in like) + "".join(rest)


def _card(n: int, text: str) -> str:
    length = sum(c.isdigit() for c in text)
    digits = text[0] + f"{n:03d}".rjust(length - 1, "0")
    if luhn.is_valid(digits):
        digits = digits[0] + "1" + digits[2:]
    return _laid_out(digits, text)


def _iban(n: int, text: str) -> str:
    length = sum(c.isalnum() for c in text)
    return _laid_out(text[:2].upper() + "00" + str(n).rjust(length - 4, "0"), text)


def _secret(n: int, text: str) -> str:
    if text.startswith("-----BEGIN"):
        label = text[11 : text.index("-----", 11)]
        return f"-----BEGIN {label}-----\n{EXAMPLE}{n:04d}\n-----END {label}-----"
    start = re.match(
        r"sk-(?:ant-|proj-)?|(?:sk|rk|pk)_(?:live|test)_|gh[pousr]_|github_pat_|glpat-|AKIA|ASIA|AIza|xox[a-z]-|hf_|"
        r"npm_|pypi-|SG\.|gsk_|gq-|eyJ",
        text,
    )
    head = start[0] if start else ""
    fill = max(4, min(len(text), 40) - len(head) - len(EXAMPLE))
    return f"{head}{EXAMPLE}{n:0{fill}d}"


def _password(n: int, text: str) -> str:
    return f"00{n:0{len(text) - 2}d}" if text.isdigit() else f"{EXAMPLE}-password-{n}"


def _ip(n: int, text: str) -> str:
    if ":" in text:
        return f"2001:db8::{n:x}"
    net = ("192.0.2", "198.51.100", "203.0.113")[(n - 1) // 254 % 3]
    return f"{net}.{(n - 1) % 254 + 1}"


def _street(n: int, text: str) -> str:
    if re.match(
        r"\d+ ?(?:bis|ter)?,? (?:rue|avenue|av\.|boulevard|bd|place|allée|chemin|impasse|quai|cours)", text
    ):
        return f"{n} rue de l'Exemple"
    if text[0].isdigit():
        return f"{n} Example Street"
    if re.match(r"Calle|C/|Avenida|Avda|Plaza|Paseo|Via|Viale|Piazza|Rua", text):
        return f"Calle Ejemplo {n}"
    return f"Beispielstraße {n}" if text[-1:].isdigit() or text[-2:-1].isdigit() else f"{n} Example Street"


def _government_id(n: int, text: str) -> str:
    told = "".join("0" if c.isdigit() else "X" if c.isalnum() else c for c in text)
    places = [at for at, c in enumerate(told) if c == "0"][-3:]
    letters = list(told)
    for at, digit in zip(places, f"{n:03d}"[-len(places) :] if places else "", strict=True):
        letters[at] = digit
    return "".join(letters)


MAKERS: dict[Kind, Callable[[int, str], str]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "secret": _secret,
    "password": _password,
    "ip-address": _ip,
    "street-address": _street,
    "government-id": _government_id,
}
