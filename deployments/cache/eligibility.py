"""How much a cache may do for a request, before it looks anything up: nothing, the same request only, or a
similar one too. Pure.

What is asked for is read from the question's words (`words.yaml`, English), and every doubt is in favour of asking
anew: a needless miss costs an answer, a stale or someone else's answer costs trust.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from configs.routing import CacheRules
from deployments.classifier.rules import has_images, text_of
from deployments.contract import ChatRequest, RawPromptRequest

MAX_QUERY_CHARS = 2_000
"""Longer questions are looked up exactly only: an embedding of the first 256 tokens cannot tell them apart."""

TASK_PREFIX = "### Task:"
"""How front ends begin their side requests (titles, tags), whose text resembles the user's own question."""

PAYLOAD_WORDS = 6
"""From here on, what stands in quotes is something that a template is filled with."""

_WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text())
_ASKS, _FRESH, _PERSONAL, _ACTION = (
    re.compile(_WORDS[name].strip().replace(" / ", "|"), re.IGNORECASE)
    for name in ("asks", "fresh", "personal", "action")
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SHORT_WORDS = 8
"""A text of so many words asks for something, however it begins."""
_PAYLOAD = re.compile(
    # (Every repetition has an end: this reads what anybody may send.)
    rf"```|\n\s{{0,20}}\S|\b(?:{_WORDS['templates'].strip().replace(' ', '|')})\b[^:]{{0,100}}:\s{{1,20}}\S"
    rf"|[\"“«„](?:[^\s\"“”«»„]{{1,60}}\s{{1,20}}){{{PAYLOAD_WORDS - 1}}}[^\"“”«»„]{{1,400}}[\"“”»]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Eligibility:
    """`most`: what the cache may do at most. `why`: what keeps it from more. `turn`: whether it is a later turn of
    a conversation."""

    most: Literal["bypass", "exact", "similar"]
    why: str = ""
    turn: bool = False


def eligibility(request: ChatRequest, rules: CacheRules) -> Eligibility:
    """How much the cache may do for this request."""
    why = _varies(request, rules)
    if why:
        return Eligibility("bypass", why)
    query = text_of(request.messages[-1].get("content"))
    if len(query) > MAX_QUERY_CHARS:
        return Eligibility("exact", "the question is long")
    why = changes(query)
    if why:
        return Eligibility("bypass", why)
    why = _is_more_than_a_question(request, query)
    return Eligibility("exact", why) if why else Eligibility("similar", turn=len(_turns(request)) > 1)


def changes(query: str) -> str | None:
    """Why these words want another answer tomorrow, or something to be done again; None where they do not."""
    sentences = _SENTENCE_END.split(query)
    short = len(query.split()) <= SHORT_WORDS
    # (Who tells of this morning does not ask for this morning's news.)
    if any(_FRESH.search(one) and (short or _ASKS.search(one)) for one in sentences):
        return "the answer changes with time"
    return "something is to be done" if _ACTION.search(query) else None


def _varies(request: ChatRequest, rules: CacheRules) -> str | None:
    """Why two answers to this very request would not be one text."""
    temperature = request.temperature
    reasons = {
        "several answers are asked for": request.n > 1,
        "log-probabilities are asked for": request.logprobs,
        "tools may be called": bool(request.tools),
        "variety is asked for": temperature is not None and temperature > rules.max_temperature,
        "there are images": has_images(request.messages),
        "it is a raw prompt": isinstance(request, RawPromptRequest),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _is_more_than_a_question(request: ChatRequest, query: str) -> str | None:
    """Why a similar wording is too little."""
    reasons = {
        "nobody asks": not _turns(request),
        # (What is looked up is the last message: a system message after the question is not the question.)
        "the last message is not the user's": request.messages[-1]["role"] != "user",
        "it is more than words": not all(map(_is_words, request.messages)),
        "a seed was given": request.seed is not None,
        "the answer has a form": (request.response_format or {}).get("type", "text") != "text",
        "tokens are weighed": bool(request.logit_bias),
        "nothing is asked": not query.strip(),
        "a front end asks for itself": query.lstrip().startswith(TASK_PREFIX),
        "it is about someone's own affairs": any(map(_PERSONAL.search, _SENTENCE_END.split(query))),
        "a template is filled with something": bool(_PAYLOAD.search(query.strip())),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _turns(request: ChatRequest) -> list[dict[str, Any]]:
    return [message for message in request.messages if message["role"] not in ("system", "developer")]


def _is_words(message: dict[str, Any]) -> bool:
    """Whether a message is text and nothing else: no sound, no file, no name."""
    content = message.get("content")
    parts = [{"type": "text"}] if isinstance(content, str) or content is None else content
    said = {name for name, value in message.items() if value is not None}
    return said <= {"role", "content"} and all(part.get("type") == "text" for part in parts)
