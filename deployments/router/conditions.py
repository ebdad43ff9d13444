"""Whether one of the owner's rules is for a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Container

from configs.routing import Condition
from deployments.classifier.rules import Classification, last_user_text
from deployments.contract import ChatRequest, RequestContext

READ_CHARS = 20_000
"""How much of a question the owner's expressions are held against."""


def holds(when: Condition, request: ChatRequest, context: RequestContext, found: Classification) -> bool:
    """Whether everything that a condition names is so."""
    named: tuple[tuple[Container[object], object], ...] = (
        (when.task, found.task),
        (when.level, found.level),
        (when.device, context.device),
        (when.language, found.language),
        (when.domain, found.domain),
        (when.key, context.key_id),
    )
    return (
        all(not wanted or value in wanted for wanted, value in named)
        and (when.tools is None or when.tools == bool(request.tools))
        and (when.min_tokens is None or found.context_tokens >= when.min_tokens)
        and (when.max_tokens is None or found.context_tokens <= when.max_tokens)
        and (when.max_chars is None or len(last_user_text(request.messages)) <= when.max_chars)
        and (when.budget_used is None or (context.budget_used or 0.0) >= when.budget_used)
        and (
            when.matches is None
            or re.search(when.matches, last_user_text(request.messages)[:READ_CHARS]) is not None
        )
    )
