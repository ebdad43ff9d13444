"""What is held for a request before anybody has answered it."""

from __future__ import annotations

from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.profile import load_profile
from deployments.budgets.estimate import IMAGE_TOKENS, USUAL_MOST, most_of, prompt_tokens
from deployments.contract import ChatRequest, CompletionRequest
from deployments.ledger.prices import cost_of

CATALOG = load_catalog()
PROFILE = load_profile("cpu", CATALOG)
SMALL, LARGE = "smollm2-135m", "qwen2.5-coder-1.5b"


def asked(content: Any = "word " * 80, **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": content}], **fields})


def test_all_that_is_to_be_read_is_counted() -> None:
    assert prompt_tokens(asked()) == 100
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    assert prompt_tokens(asked([{"type": "text", "text": "x" * 40}, picture, picture])) == 10 + 2 * IMAGE_TOKENS
    ids = CompletionRequest.model_validate({"prompt": [5] * 3000})
    assert prompt_tokens(ids.as_chat([5] * 3000)) == 3000
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "y" * 4000}}]}]
    with_calls = ChatRequest.model_validate({"messages": [*calls, {"role": "user", "content": "hi"}]})
    assert prompt_tokens(with_calls) > 1000


def test_the_dearest_that_may_answer_is_held_or_the_one_that_is_named() -> None:
    dearest = cost_of(LARGE, 100, USUAL_MOST, CATALOG)
    assert most_of(asked(), None, PROFILE, CATALOG).usd == pytest.approx(dearest)
    own = cost_of(SMALL, 100, 10, CATALOG)
    assert most_of(asked(model=SMALL, max_tokens=10), None, PROFILE, CATALOG).usd == pytest.approx(own)
    assert most_of(asked(model=f"ft:{SMALL}:a", max_tokens=10), None, PROFILE, CATALOG).usd == pytest.approx(own)
    assert most_of(asked(max_tokens=10), (SMALL,), PROFILE, CATALOG).usd == pytest.approx(own)
    assert most_of(asked(max_tokens=10, n=3), None, PROFILE, CATALOG).tokens == 100 + 30


def test_nobody_holds_more_than_the_longest_context() -> None:
    longest = max(served.context for served in PROFILE.variants.values())
    most = most_of(asked("x" * 10**7, max_tokens=10**400), None, PROFILE, CATALOG)
    assert most.tokens == 2 * longest
    assert most.usd > 0
