"""Phones, cards, IBANs, IP addresses and numbers of identity: form, and then the check that the number carries.

By python-stdnum (Luhn, IBAN, social security) and phonenumbers (Google's libphonenumber).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

import phonenumbers
from stdnum import iban as stdnum_iban
from stdnum import luhn
from stdnum.de import idnr
from stdnum.us import ssn

from train.curate.pii.found import Found

GAP = r"[ \u00a0\u202f-]"
CARD = re.compile(
    r"(?<![\w+])(?<!\d\.)(?<!\w-)(?:"
    r"(?P<whole>\d{4}([ \u00a0\u202f.-]?)\d{4}\2\d{4}\2\d{4})(?:\2\d{3})?"
    r"|\d{4}([ \u00a0\u202f.-]?)\d{6}\3\d{4,5})(?!\w|-\w|\.\d)"
)
"""What stands beside it in a table or a form (`,` and `/`) is no part of it."""
ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[0689]|6")
IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d{{2}}(?:{GAP}?[A-Za-z0-9]){{11,30}}")
IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:])")
PUBLIC_RESOLVERS = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"}
OF_A_VERSION = re.compile(
    r"(?i)(?:\b(?:v|ver|version|release|firmware|build|driver|python|node|java|php|ruby|chrome|firefox|windows|"
    r"android|ios|kernel|nginx|postgresql|ubuntu)[ .:/]{0,2}|[=~<>!]=\s?"
    r"|\"(?!\w*(?:ip|addr|host|server|client|remote|origin|dns|gateway))[\w@/.-]{1,60}\":\s?\"[\^~]?)$"
)
EXAMPLE_NETS = [
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
SSN = re.compile(rf"(?<![\w-])\d{{3}}(?P<gap>{GAP}?)\d{{2}}(?P=gap)\d{{4}}(?![\w-])")
SAID_IDENTITY = re.compile(
    r"(?i)\b(?:passport|licen[cs]e|driver|ssn|social security|tax|national (?:id|insurance)|identity|id card|"
    r"id number|reisepass|ausweis|führerschein|steuer|passeport|pasaporte|dni|nie|cpf|aadhaar)"
)
NINO = re.compile(r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b")
PASSPORT = re.compile(
    r"(?i:\b(?:passport|reisepass|personalausweis|passeport|pasaporte)\b)[^\n\d]{0,30}?\b"
    r"(?P<value>[A-Z][A-Z0-9]{2}\d{4,6}[A-Z0-9]?|\d{9})\b"
)
TAX_ID = re.compile(r"(?<![\w-])\d{2} ?\d{3} ?\d{3} ?\d{3}(?![\w-])")
OF_TAXES = re.compile(r"(?i)\b(?:steuer-?(?:id|identifikationsnummer|nummer)|idnr|tax id)\b\D{0,20}$")
DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")
"""Seven of them: below that there is no phone number, and the search for one is not begun."""
SAID = re.compile(
    r"(?i)\b(?:phone|call|called|calling|tel|telephone|mobile|cell|whatsapp|text|sms|fax|ring|dial|reach|"
    r"number is|telefon|telefonnummer|handy|handynummer|mobil|anrufen|ruf|rufen|nummer ist|téléphone|teléfono|"
    r"móvil)\b.{0,40}$",
    re.DOTALL,
)
PHONE_NUMBER = re.compile(
    r"(?i)\b(?:phone|tel|telephone|mobile|cell|whatsapp|sms|fax|telefon|handy|mobil)\b[\s.-]{0,2}"
    r"(?:no|nr|number|nummer)\b[\s.:#is]{0,5}$"
)
"""It is said right before it; `no` alone may be an order's."""
NOT_A_PHONE = re.compile(
    r"(?i)\b(?:order|invoice|isbn|issn|ean|upc|sku|ticket|case|tracking|serial|part|model|version|build|id|"
    r"bestellung|rechnung|auftrag|artikel|aktenzeichen|kundennummer|no\.?|nr\.?|ref|reference|rfc|timestamp|"
    r"port|pid)\b(?: (?:number|no\.?|nummer|id|code))?[\s:#is]{0,5}$"
)
DRAMA = re.compile(
    r"(?:\+1 )?\(?\d{3}\)?[ -]555-01\d\d|(?:\+44 20|020) 7946 0\d{3}|(?:\+49 30|030) 23125 \d{3}|\+999 555 0\d{3}"
)
"""Numbers that their countries keep for films: our pseudonyms."""


def cards(text: str) -> Iterator[Found]:
    """Numbers of an issuer's range whose last digit is right (Luhn)."""
    for match in CARD.finditer(text):
        # (Three more digits are a part of a long one, or stand on its back.)
        for told in dict.fromkeys((match[0], match["whole"] if match[2] else match[0])):
            digits = re.sub(r"\D", "", told or "")
            if ISSUERS.match(digits) and len(set(digits)) > 1 and luhn.is_valid(digits):
                yield Found(match.start(), match.start() + len(told), "card", told)
                break


def ibans(text: str) -> Iterator[Found]:
    """Those whose country, length and check digits are right."""
    for match in IBAN.finditer(text):
        end = _iban_end(match[0])
        if end:
            yield Found(match.start(), match.start() + end, "iban", match[0][:end])


def _iban_end(text: str) -> int:
    """Where it ends: words that follow look like more of it."""
    for end in range(len(text), 14, -1):
        compact = re.sub(GAP, "", text[:end]).upper()
        if text[end - 1].isalnum() and not text[end : end + 1].isalnum() and stdnum_iban.is_valid(compact):
            return end
    return 0


def ip_addresses(text: str, private: bool = False) -> Iterator[Found]:
    """Of the public Internet, and of private networks if asked for; no versions, no public resolvers."""
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if any(address in net for net in EXAMPLE_NETS) or match[0] in PUBLIC_RESOLVERS:
                continue
            wanted = address.is_global or (
                private and address.is_private and not (address.is_loopback or address.is_unspecified)
            )
            if wanted and not OF_A_VERSION.search(text, max(0, match.start() - 80), match.start()):
                yield Found(match.start(), match.end(), "ip-address", match[0])


def phones(text: str, regions: Sequence[str]) -> Iterator[Found]:
    """With a country's code those of anywhere; without one those of `regions`. A number without any sign in it has
    to be said to be one."""
    if not DIGITS.search(text):
        return
    seen = {match.span() for match in DRAMA.finditer(text)}
    for region in regions or ("ZZ",):
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            clear = all(match.end <= start or match.start >= end for start, end in seen)
            if clear and _is_phone(text, match.start, match.raw_string):
                seen.add((match.start, match.end))
                yield Found(match.start, match.end, "phone", match.raw_string)


def _is_phone(text: str, start: int, raw: str) -> bool:
    before = text[max(0, start - 60) : start]
    if raw.startswith("+"):
        return True
    if NOT_A_PHONE.search(before) and not PHONE_NUMBER.search(before):
        return False
    return bool(re.search(r"[ ()./-]", raw) and not re.fullmatch(r"\d{1,4}[./-]\d{1,4}[./-]\d{1,4}", raw)) or bool(
        SAID.search(before) or re.fullmatch(r"\d{3}[.-]\d{3}[.-]\d{4}", raw)
    )


def government_ids(text: str) -> Iterator[Found]:
    """US social security, UK national insurance, passports, German tax numbers."""
    for match in SSN.finditer(text):
        said = match["gap"] == "-" or SAID_IDENTITY.search(text, max(0, match.start() - 60), match.start())
        if said and ssn.is_valid(re.sub(r"\D", "", match[0])):
            yield Found(match.start(), match.end(), "government-id", match[0])
    for match in NINO.finditer(text):
        yield Found(match.start(), match.end(), "government-id", match[0])
    for match in PASSPORT.finditer(text):
        yield Found(*match.span("value"), "government-id", match["value"])
    for match in TAX_ID.finditer(text):
        if OF_TAXES.search(text, max(0, match.start() - 60), match.start()) and idnr.is_valid(match[0]):
            yield Found(match.start(), match.end(), "government-id", match[0])
