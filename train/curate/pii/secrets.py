"""Keys, tokens and passwords: by the form that their makers give them, by what stands before them, by entropy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from train.curate.pii.found import Found

EXAMPLE = "EXAMPLE"
"""In capitals in every pseudonym of a secret, and (as in the makers' own documentation) in none that is one."""

FORMS = re.compile(
    r"-----BEGIN (?P<pem>[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----[\s\S]{1,20000}?-----END (?P=pem)-----"
    r"|(?<![A-Za-z0-9_-])(?:"
    r"sk-(?:ant-|proj-|svcacct-|admin-|or-v1-|lf-)?[A-Za-z0-9_-]{20,220}"  # OpenAI, Anthropic, OpenRouter
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,120}"  # Stripe
    r"|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|ya29\.[A-Za-z0-9_-]{20,400}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack
    r"|hf_[A-Za-z0-9]{30,64}"  # Hugging Face
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,400}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"  # SendGrid
    r"|dop_v1_[a-f0-9]{64}|gsk_[A-Za-z0-9]{40,64}|pplx-[A-Za-z0-9]{40,64}|gq-[A-Za-z0-9_-]{24,64}"
    r"|tskey-[a-z]{2,10}-[A-Za-z0-9-]{16,80}"
    r"|\d{8,10}:AA[A-Za-z0-9_-]{33}"  # Telegram
    r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"  # JSON Web Token
    r")(?![A-Za-z0-9_])"
)
IN_URL = re.compile(r"(?<=://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@[\w.-]+)")
BEARER = re.compile(r"(?i)(?<=\bbearer )[A-Za-z0-9._~+/-]{16,2000}={0,2}")
NAMED = re.compile(
    r"(?i)(?:api[ _-]?key|access[ _-]?key|secret[ _-]?key|secret|auth[ _-]?token|access[ _-]?token|token|"
    r"client[ _-]?secret|private[ _-]?key)[\"'`]?(?:\s{0,3}(?::=|=>|[:=])\s{0,3}|\s(?:is|ist)\s{1,3}:?\s{0,2})"
    r"[\"'`]?(?P<value>[A-Za-z0-9._~+/-]{12,400}={0,2})"
)
PASSWORD = re.compile(
    r"(?i)(?<![A-Za-z])(?:password|passwort|passphrase|passwd|pwd|kennwort|mot de passe|contraseña)"
    r"[\"'`]?(?:\s{0,3}(?::=|=>|[:=])\s{0,3}|(?:\s[^\s:=]{1,12}){0,2}?\s(?:is|was|to|ist|lautet|est|es)\s{1,3}:?\s{0,2})"
    r"[\"'`“]?(?P<value>[^\s\"'`”,;<>(){}]{6,64})"
)
BESIDE = re.compile(
    r"(?i)(?<![A-Za-z])(?:password|passwort|passwd|pwd|pw|kennwort):?\s{1,2}(?:from\s|von\s)?[\"'`“]?"
    r"(?P<value>[^\s\"'`”,;<>(){}]{6,64})(?:[\"'`”]?\s(?:to|auf|zu)\s[\"'`“]?(?P<new>[^\s\"'`”,;<>(){}]{6,64}))?"
)
"""Without a word between: then it needs a digit."""
PIN = re.compile(r"\bPIN(?:\s(?:code|number))?(?:\s{0,2}[:=]\s{0,2}|\s(?:is|was|ist)\s{1,2})(?P<value>\d{4,8})\b")
LONG = re.compile(r"(?<![A-Za-z0-9+/_=.-])[A-Za-z0-9+/_-]{32,200}={0,2}(?![A-Za-z0-9+/_=-])")
OF_A_FILE = re.compile(
    r"(?i)(?:sha-?\d{1,3}|md5|commit|integrity|checksum|digest|hash|base64,?|etag|revision|https?://\S*)\W{0,4}$"
)
HEX = re.compile(r"[0-9a-fA-F-]+")
LEAST_ENTROPY = 4.2
"""Bits a letter. Random base64 of 32 letters has about 4.6, English without spaces below 4."""


def secrets(text: str) -> Iterator[Found]:
    """Keys, tokens, key blocks and passwords."""
    for match in FORMS.finditer(text):
        yield from _secret(match.start(), match.end(), text)
    for pattern in (IN_URL, BEARER):
        for match in pattern.finditer(text):
            yield from _secret(match.start(), match.end(), text)
    for match in NAMED.finditer(text):
        if _is_random(match["value"]):
            yield from _secret(*match.span("value"), text)
    for match in LONG.finditer(text):
        if _is_key(match[0]) and not OF_A_FILE.search(text, max(0, match.start() - 200), match.start()):
            yield from _secret(match.start(), match.end(), text)


def passwords(text: str) -> Iterator[Found]:
    """What is said to be one."""
    for match in PASSWORD.finditer(text):
        start = match.start("value")
        value = match["value"].rstrip(".!?:")
        if _is_password(value) and EXAMPLE not in value:
            yield Found(start, start + len(value), "password", value)
    for match in BESIDE.finditer(text):
        for name in ("value", "new"):
            value = (match[name] or "").rstrip(".!?:")
            if _is_password(value) and any(c.isdigit() for c in value) and EXAMPLE not in value:
                yield Found(match.start(name), match.start(name) + len(value), "password", value)
    for match in PIN.finditer(text):
        if not match["value"].startswith("00"):
            yield Found(*match.span("value"), "password", match["value"])


def _secret(start: int, end: int, text: str) -> Iterator[Found]:
    if EXAMPLE not in text[start:end]:
        yield Found(start, end, "secret", text[start:end])


def entropy(text: str) -> float:
    """Bits a letter, by how often each occurs."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _is_random(value: str) -> bool:
    """Of a value that is said to be secret: letters and digits in a mixture that no word has."""
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and entropy(value) >= 3.0


def _is_key(value: str) -> bool:
    """Of a long string of which nothing is said."""
    if HEX.fullmatch(value) or max(map(len, re.split(r"[/_+=-]", value))) < 20:
        return False
    kinds = [any(test(c) for c in value) for test in (str.isupper, str.islower, str.isdigit)]
    return all(kinds) and sum(c.isdigit() for c in value) >= 3 and entropy(value) >= LEAST_ENTROPY


def _is_password(value: str) -> bool:
    """Not a word, nor code that stands where a password might."""
    if len(value) < 6 or value.startswith(("$", "%", "os.", "http", "...", "***", "self.")) or "[" in value:
        return False
    letters = any(c.isalpha() for c in value)
    return letters and (any(c.isdigit() for c in value) or any(c in "!@#$%^&*?+~" for c in value))
