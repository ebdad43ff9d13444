"""An answer goes from Router to Router: as JSON, and on from where it was."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatError, ChatRequest, ContinuedRequest
from deployments.router.decision import Attempt, Candidate, Given, Item, Routed, RouteDecision, from_json, to_json
from deployments.router.taking_over import going_on, the_rest

DECISION = RouteDecision(
    "small",
    "trivial query",
    "auto",
    "server",
    candidates=(Candidate("small"), Candidate("large", "dearer")),
    attempts=(Attempt("small", "answered", 3, 1.5),),
    parameters={"temperature": 0.7},
)
ROUTED = Routed(DECISION, "miss", 0.2, given=Given("key_a", "e1", b"\x00\xff"))
BUILDER = ChunkBuilder("1", "small")
ROLE = BUILDER.delta(0, role="assistant", content="")
END = BUILDER.delta(0, finish_reason="stop")


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields})


@pytest.mark.parametrize(
    "item",
    [
        ROUTED,
        Routed(DECISION, "exact", 0.0, 12),
        ROLE,
        BUILDER.delta(0, content="Paris. 🏔"),
        BUILDER.delta(0, reasoning="Let me think"),
        END,
        BUILDER.usage(token_usage(5, 2, cached=1)),
    ],
)
def test_an_item_is_the_same_at_the_other_router(item: Item) -> None:
    again = from_json(json.loads(json.dumps(to_json(item))))
    assert again == item
    if not isinstance(item, Routed):
        assert not isinstance(again, Routed)
        assert again.model_dump_json() == item.model_dump_json()


def test_what_was_said_is_gone_on_with() -> None:
    request = going_on(asked(), [ROUTED, ROLE, BUILDER.delta(0, content="Par"), BUILDER.delta(0, content="is")])
    assert isinstance(request, ContinuedRequest) and request.begun == "Paris" and request.stream
    said: list[Item] = [ROUTED, *(BUILDER.delta(0, content=str(number)) for number in range(9))]
    for name in ("max_tokens", "max_completion_tokens"):
        assert going_on(asked(**{name: 10}), said).token_limit == 1, "what was said counts"
    assert not isinstance(going_on(asked(), [ROUTED, ROLE]), ContinuedRequest), "nothing was said yet"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, BUILDER.delta(0, content="x", reasoning="hm")),
        ({}, BUILDER.delta(0, reasoning="hm")),
        ({"response_format": {"type": "json_object"}}, BUILDER.delta(0, content="{")),
        ({"n": 2}, BUILDER.delta(0, content="x")),
    ],
)
def test_what_is_more_than_text_is_not_gone_on_with(fields: dict[str, Any], said: Item) -> None:
    with pytest.raises(ChatError) as refused:
        going_on(asked(**fields), [ROUTED, said])
    assert refused.value.status == 503


async def again() -> AsyncGenerator[list[Item], None]:
    yield [ROUTED, ROLE]
    yield [BUILDER.delta(0, content="is."), END]


async def left(said: list[Item]) -> list[Item]:
    return [item async for items in the_rest(said, again) for item in items]


async def test_the_client_hears_one_beginning_and_one_end() -> None:
    begun = [ROUTED, ROLE, BUILDER.delta(0, content="Par")]
    assert await left(begun) == [BUILDER.delta(0, content="is."), END]
    assert await left([ROUTED]) == [ROLE, BUILDER.delta(0, content="is."), END]
    assert await left([*begun, END]) == [], "only that it was the end had not been said"
