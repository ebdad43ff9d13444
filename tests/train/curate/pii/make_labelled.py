"""Makes labelled.jsonl and unseen.jsonl: `python tests/train/curate/pii/make_labelled.py`. Same seed, same files.

Templates are written by hand, as people write in chats: in English, German, French and Spanish, with what looks
like personal information and is none. Every value is made up: `{kind}` in a template stands for one, and its place
is its label. People, numbers and keys are nobody's; check digits are right, as they have to be to be found.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

SEED = 7
PER_TEMPLATE = 4
HERE = Path(__file__).parent

PARTS: dict[str, list[str]] = yaml.safe_load((HERE / "values.yaml").read_text(encoding="utf-8"))
GIVEN, FAMILY, STREET, STRASSE, RUE, CALLE, HOSTS = (PARTS[name] for name in PARTS)


def _text(r: random.Random, letters: str, length: int) -> str:
    return "".join(r.choice(letters) for _ in range(length))


def _digits(r: random.Random, length: int) -> str:
    return _text(r, string.digits, length)


def _name(r: random.Random) -> str:
    return f"{r.choice(GIVEN)} {r.choice(FAMILY)}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower().translate(str.maketrans("öéáòß", "oeaos")))


def _email(r: random.Random) -> str:
    given, family = _plain(r.choice(GIVEN)), _plain(r.choice(FAMILY))
    local = r.choice(
        [
            f"{given}.{family}",
            f"{given[0]}{family}",
            f"{family}{r.randint(1, 99)}",
            f"{given}+news",
            f"{given}_{family}",
        ]
    )
    host = r.choice(HOSTS)
    form = r.randrange(12)
    if form == 0:
        return f"{local} [at] {host.replace('.', ' [dot] ')}"
    return f"{local.title()}@{host}" if form == 1 else f"{local}@{host}"


def _phone(r: random.Random) -> str:
    a, b = r.choice(("212", "312", "415", "617", "713", "206")), r.choice(("441", "634", "782", "867"))
    c = _digits(r, 4)
    return r.choice(
        [
            f"({a}) {b}-{c}",
            f"{a}-{b}-{c}",
            f"{a}.{b}.{c}",
            f"+1 {a} {b} {c}",
            f"+1-{a}-{b}-{c}",
            f"+1{a}{b}{c}",
            f"020 7{_digits(r, 3)} {_digits(r, 4)}",
            f"+44 20 7{_digits(r, 3)} {_digits(r, 4)}",
            f"07911 {_digits(r, 6)}",
            f"+49 170 {r.randint(1000000, 9999999)}",
            f"0171 {r.randint(1000000, 9999999)}",
            f"089 {r.randint(200000, 899999)}",
            f"+33 6 {r.randint(10, 99)} {r.randint(10, 99)} {r.randint(10, 99)} {r.randint(10, 99)}",
            f"+34 612 {r.randint(100, 999)} {r.randint(100, 999)}",
            f"+91 98{_digits(r, 3)} {_digits(r, 5)}",
        ]
    )


def _card(r: random.Random) -> str:
    head, length = r.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16), ("34", 15)]
    )
    body = head + _digits(r, length - len(head) - 1)
    digits = body + luhn.calc_check_digit(body)
    groups = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    parts, at = [], 0
    for size in groups:
        parts.append(digits[at : at + size])
        at += size
    return r.choice(["", " ", " ", "-"]).join(parts)


def _spaced(r: random.Random) -> str:
    """A card in four groups, as it is printed."""
    while len((card := _card(r)).split(" ")) != 4:
        pass
    return card


def _iban(r: random.Random) -> str:
    country, body = r.choice(
        [
            ("DE", _digits(r, 18)),
            ("FR", _french(r)),
            ("GB", "NWBK" + _digits(r, 14)),
            ("NL", "ABNA" + _digits(r, 10)),
            ("AT", _digits(r, 16)),
            ("CH", "00762" + _digits(r, 12)),
        ]
    )
    check = mod_97_10.calc_check_digits(body + country)
    compact = f"{country}{check}{body}"
    return " ".join(compact[i : i + 4] for i in range(0, len(compact), 4)) if r.random() < 0.6 else compact


def _french(r: random.Random) -> str:
    number = _digits(r, 21)
    return number + f"{97 - int(number) * 100 % 97:02d}"


def _b64(r: random.Random, length: int) -> str:
    return _text(r, string.ascii_letters + string.digits, length)


def _jwt(r: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return (
        f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': _digits(r, 10), 'iat': 1516239022})}.{_b64(r, 43)}"
    )


def _pem(r: random.Random) -> str:
    body = "\n".join(_b64(r, 64) for _ in range(3))
    label = r.choice(["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY"])
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


def _secret(r: random.Random) -> str:
    return r.choice(
        [
            "sk-" + _b64(r, 48),
            "sk-proj-" + _b64(r, 64),
            "sk-ant-api03-" + _b64(r, 80),
            "ghp_" + _b64(r, 36),
            "github_pat_" + _b64(r, 59),
            "AKIA" + _text(r, string.ascii_uppercase + string.digits, 16),
            "AIza" + _b64(r, 35),
            "xoxb-" + f"{_digits(r, 11)}-{_b64(r, 24)}",
            "hf_" + _b64(r, 34),
            "glpat-" + _b64(r, 20),
            "sk_live_" + _b64(r, 24),
            _jwt(r),
            _jwt(r),
            _pem(r),
            _b64(r, 40) + "7aB9",
            "npm_" + _b64(r, 36),
        ]
    )


def _ip(r: random.Random) -> str:
    if r.random() < 0.2:
        return ":".join(["2a02", "8109"] + [f"{r.randrange(1, 65535):x}" for _ in range(6)])
    return (
        f"{r.choice((23, 46, 81, 93, 141, 188, 212))}.{r.randint(1, 254)}.{r.randint(0, 254)}.{r.randint(1, 254)}"
    )


def _street(r: random.Random) -> str:
    kind = r.choice(("Street", "Avenue", "Road", "Lane", "Drive", "St", "Ave", "Blvd", "Court"))
    unit = r.choice(("", "", ", Apt 4B", " Suite 210"))
    return f"{r.randint(2, 9800)} {r.choice(STREET)} {kind}{unit}"


def _strasse(r: random.Random) -> str:
    kind = r.choice(("straße", "str.", "weg", "allee", "platz"))
    return f"{r.choice(STRASSE)}{kind} {r.randint(1, 180)}{r.choice(('', '', 'a'))}"


def _ssn(r: random.Random) -> str:
    return f"{r.randint(101, 665)}-{r.randint(11, 99)}-{r.randint(1000, 9999)}"


def _nino(r: random.Random) -> str:
    return (
        f"{r.choice(('AB', 'CE', 'JG', 'PX'))} {_digits(r, 2)} {_digits(r, 2)} {_digits(r, 2)} {r.choice('ABCD')}"
    )


def _passport(r: random.Random) -> str:
    return f"{r.choice('CFGHJK')}{_text(r, string.digits + 'CFGHJK', 2)}{_digits(r, 6)}"


def _password(r: random.Random) -> str:
    return (
        r.choice(["Tr0ub4dor", "sunny", "Kaffee", "blue-Horse", "winter", "Quartz"])
        + r.choice(["#", "!", "$", ""])
        + _digits(r, 3)
    )


VALUES: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "name": ("name", _name),
    "given": ("name", lambda r: r.choice(GIVEN)),
    "abroad": ("email", lambda r: f"{_plain(r.choice(GIVEN))}@{r.choice(('empresa.com.py', 'firma.md'))}"),
    "family": ("name", lambda r: r.choice(FAMILY)),
    "email": ("email", _email),
    "phone": ("phone", _phone),
    "bare": ("phone", lambda r: f"{r.choice(('212', '415', '617'))}{r.choice(('441', '634'))}{_digits(r, 4)}"),
    "card": ("card", _card),
    "row": ("card", lambda r: re.sub(r"\D", "", _card(r))),
    "spread": ("card", lambda r: re.sub(r"\D", r.choice("\u00a0."), _spaced(r))),
    "iban": ("iban", _iban),
    "iban_nb": ("iban", lambda r: _iban(r).replace(" ", "\u00a0")),
    "secret": ("secret", _secret),
    "hexkey": ("secret", lambda r: _text(r, "0123456789abcdef", 32)),
    "ip": ("ip-address", _ip),
    "street": ("street-address", _street),
    "strasse": ("street-address", _strasse),
    "rue": ("street-address", lambda r: f"{r.randint(1, 150)} rue {r.choice(RUE)}"),
    "calle": ("street-address", lambda r: f"Calle {r.choice(CALLE)} {r.randint(1, 120)}"),
    "ssn": ("government-id", _ssn),
    "ssn_spaced": ("government-id", lambda r: _ssn(r).replace("-", " ")),
    "landline": ("phone", lambda r: f"020 7183 {_digits(r, 4)}"),
    "nino": ("government-id", _nino),
    "passport": ("government-id", _passport),
    "password": ("password", _password),
    # What looks like it, and is none.
    "sha": ("", lambda r: _text(r, "0123456789abcdef", 40)),
    "md5": ("", lambda r: _text(r, "0123456789abcdef", 32)),
    "sha256": ("", lambda r: _text(r, "0123456789abcdef", 64)),
    "uuid": ("", lambda r: "-".join(_text(r, "0123456789abcdef", n) for n in (8, 4, 4, 4, 12))),
    "order": (
        "",
        lambda r: r.choice(
            [f"{_digits(r, 3)}-{_digits(r, 7)}-{_digits(r, 7)}", "9" + _digits(r, 9), "BX" + _digits(r, 8)]
        ),
    ),
    "notcard": ("", lambda r: _not_card(r)),
    "version": ("", lambda r: ".".join(str(r.randint(0, 99)) for _ in range(r.choice((3, 4))))),
    "date": ("", lambda r: f"20{r.randint(10, 29)}-{r.randint(10, 12)}-{r.randint(10, 28)}"),
    "isbn": ("", lambda r: f"978-{r.randint(0, 9)}-{_digits(r, 2)}-{_digits(r, 6)}-{r.randint(0, 9)}"),
    "stamp": ("", lambda r: f"17{_digits(r, 8)}"),
    "amount": ("", lambda r: f"{r.randint(1, 999)},{_digits(r, 3)}.{_digits(r, 2)}"),
    "private": (
        "",
        lambda r: r.choice(
            [
                f"192.168.{r.randint(0, 9)}.{r.randint(1, 254)}",
                f"10.0.{r.randint(0, 9)}.{r.randint(1, 254)}",
                "127.0.0.1",
            ]
        ),
    ),
}


def _not_card(r: random.Random) -> str:
    """Sixteen digits with a wrong last one."""
    body = "4" + _digits(r, 14)
    return body + str((int(luhn.calc_check_digit(body)) + r.randint(1, 9)) % 10)


def templates(name: str) -> list[str]:
    """Those of a file, without remarks."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if line and line[0] != "#"]


def items(name: str) -> Iterator[dict[str, object]]:
    """Each template with several sets of values."""
    r = random.Random(SEED)
    for template in templates(name):
        # One with nothing in it is the same each time.
        for _ in range(PER_TEMPLATE if "{" in template else 1):
            text, spans = "", []
            for part in re.split(r"(\{\w+\})", template):
                if re.fullmatch(r"\{\w+\}", part):
                    kind, make = VALUES[part[1:-1]]
                    part = make(r)
                    if kind:
                        spans.append({"start": len(text), "end": len(text) + len(part), "kind": kind})
                text += part
            yield {"text": text, "spans": spans}


if __name__ == "__main__":
    for source, target in (("templates.txt", "labelled.jsonl"), ("templates_unseen.txt", "unseen.jsonl")):
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items(source)]
        (HERE / target).write_text("".join(lines), encoding="utf-8")
        print(f"{target}: {len(lines)} items")
