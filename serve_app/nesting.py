"""How deep a JSON document nests, before anything parses it. Pure.

Parsers, and what walks over a document afterwards (a copy, a pickle, a template), go one call deeper for each
level: beyond some hundreds Python gives up in the middle of the work.
"""

from __future__ import annotations

import json

import numpy as np

from deployments.contract import ChatError, invalid

BRACKETS = b"[]{}"
OTHERS = bytes(set(range(256)) - set(BRACKETS + b'"'))
PIECE = 1 << 20
"""Brackets that are counted at once, so that a document of nothing else takes little memory."""


def check_nesting(document: bytes, limit: int) -> None:
    """Raise a 400 for JSON deeper than `limit` levels, or in another encoding than UTF-8, in which levels could
    hide. What is no JSON passes: whoever parses it says so."""
    if json.detect_encoding(document) not in ("utf-8", "utf-8-sig"):
        raise invalid("The body is not UTF-8, which JSON has to be.", code="invalid_encoding")
    if document.count(b"[") + document.count(b"{") > limit and depth(document) > limit:
        raise too_deep(limit)


def depth(document: bytes) -> int:
    """The most levels that are open at once, by brackets outside of strings: 1 for `{}`."""
    # In this order: in `\\"` the backslash is escaped, not the quote. Then quotes only begin and end strings, and
    # two with nothing between them change nothing.
    plain = document.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, OTHERS).replace(b'""', b"")
    brackets = np.frombuffer(b"".join(plain.split(b'"')[::2]), np.uint8)
    deepest = level = 0
    for start in range(0, len(brackets), PIECE):
        piece = brackets[start : start + PIECE]
        levels = level + np.cumsum(np.where((piece == ord("[")) | (piece == ord("{")), 1, -1))
        deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def too_deep(limit: int) -> ChatError:
    """The 400."""
    return invalid(f"The JSON nests deeper than {limit} levels.", code="json_too_deep")
