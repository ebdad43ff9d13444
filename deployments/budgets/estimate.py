"""What a request may take, before anybody has answered it. Pure, and rough: four characters are a token."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from configs.adapters import base_of
from configs.catalog import Catalog
from configs.profile import Profile
from deployments.budgets.limits import Amount
from deployments.classifier.rules import CHARS_PER_TOKEN, text_of
from deployments.contract import ChatRequest, RawPromptRequest
from deployments.ledger.prices import cost_of

USUAL_MOST = 1024
"""Tokens that are held for an answer whose request sets no limit."""

IMAGE_TOKENS = 1000


def prompt_tokens(request: ChatRequest) -> int:
    """Of all that is to be read: texts, token ids, images, calls and tools."""
    if isinstance(request, RawPromptRequest):
        prompt = request.prompt
        return len(prompt) if isinstance(prompt, list) else len(prompt) // CHARS_PER_TOKEN
    chars = sum(len(str(tool)) for tool in request.tools or ())
    images = 0
    for message in request.messages:
        chars += len(text_of(message.get("content"))) + len(str(message.get("tool_calls") or ""))
        images += _images(message)
    return chars // CHARS_PER_TOKEN + images * IMAGE_TOKENS


def most_of(request: ChatRequest, allowed: Collection[str] | None, profile: Profile, catalog: Catalog) -> Amount:
    """What a request may take at most: by the one variant that it names, else by the dearest of those that may
    answer (`allowed`; None: all)."""
    bases = None if allowed is None else {base_of(name) for name in allowed}
    names = [name for name in profile.variants if bases is None or name in bases]
    named = base_of(request.model or "")
    if named in profile.variants:
        names = [named]
    longest = max((profile.variants[name].context for name in names), default=0)
    read = min(prompt_tokens(request), longest)
    limit = USUAL_MOST if request.token_limit is None else request.token_limit
    said = min(limit, longest) * request.n
    return Amount(read + said, max((cost_of(name, read, said, catalog) for name in names), default=0.0))


def _images(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if not isinstance(content, list):
        return 0
    return sum(isinstance(part, Mapping) and "image" in str(part.get("type")) for part in content)
