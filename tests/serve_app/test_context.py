"""What a request's headers say of it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from deployments.contract import ChatError, RequestContext
from serve_app.context import request_context
from serve_app.keys import ApiKey


def context(key_prefers: str | None = None, **headers: str) -> RequestContext:
    named = [(f"x-groupqwen-{name.replace('_', '-')}".encode(), value.encode()) for name, value in headers.items()]
    state: dict[str, Any] = {
        "key": ApiKey("k", "test", "", 0, preference=key_prefers),
        "request_id": "r",
        "device": "",
    }
    scope = {"type": "http", "headers": named, "state": state}
    return request_context(Request(scope))


def test_a_request_is_worth_what_it_says_else_what_its_key_prefers() -> None:
    assert context().preference is None
    assert context("economy").preference == "economy"
    assert context("economy", preference=" Best ").preference == "best"
    with pytest.raises(ChatError, match="there are economy, balanced, best"):
        context(preference="cheapest")


def test_budgets_and_what_may_leave_the_house() -> None:
    assert context().max_cost_usd is None
    assert context(max_cost="0.002").max_cost_usd == 0.002
    for wrong in ("-1", "nan", "inf", "much"):
        with pytest.raises(ChatError, match="number of US dollars"):
            context(max_cost=wrong)
    assert context(begin_within="2.5").begin_within == 2.5
    for wrong in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(ChatError, match="number of seconds"):
            context(begin_within=wrong)
    assert context().remote
    assert not context(remote="Never").remote
