from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from deployments.cache.second_opinion import SMALLEST, Chat, SecondOpinion
from deployments.contract import ChatRequest, RequestContext, engine_gone
from deployments.router.self_check import likely_yes


def word(text: str, yes: float) -> ChatCompletionChunk:
    tops = [{"token": f" {name}", "logprob": math.log(p)} for name, p in (("Yes", yes), ("No", 1 - yes))]
    token = {"token": text, "logprob": math.log(0.5), "top_logprobs": tops}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [token]}, "finish_reason": None}
    return ChatCompletionChunk.model_validate(
        {"id": "1", "created": 0, "model": "m", "object": "chat.completion.chunk", "choices": [choice]}
    )


def saying(yes: Callable[[str], float], seen: list[Any] | None = None, seconds: float = 0.0) -> Chat:
    async def chat(request: ChatRequest, context: RequestContext) -> AsyncIterator[list[ChatCompletionChunk]]:
        if seen is not None:
            seen.append((request, context))
        await asyncio.sleep(seconds)
        yield [word("Yes", yes(str(request.messages[0]["content"])))]

    return chat


def test_a_word_about_it_is_a_probability() -> None:
    assert likely_yes([word("Yes", 0.9)]) == pytest.approx(0.9)
    assert likely_yes([]) is None


async def test_a_verifier_is_asked_one_word_and_has_so_much_time() -> None:
    seen: list[Any] = []
    second = SecondOpinion({"small": saying(lambda _: 0.7, seen), "slow": saying(lambda _: 0.7, seconds=1)})
    assert await second.one_answer_for_both("small", "Who is he?", "Who was he?", 0.5) == pytest.approx(0.7)
    request, context = seen[0]
    assert "Who is he?" in request.messages[0]["content"] and "Who was he?" in request.messages[0]["content"]
    assert request.max_tokens == 2 and context.cache == "bypass"
    assert await second.one_answer_for_both("slow", "a", "b", 0.01) is None


async def test_one_that_fails_has_no_opinion() -> None:
    async def broken(_request: ChatRequest, _context: RequestContext) -> AsyncIterator[list[ChatCompletionChunk]]:
        raise engine_gone("small")
        yield []

    second = SecondOpinion({"small": broken})
    assert await second.one_answer_for_both("small", "a", "b", 1.0) is None
    assert await second.say_the_same("small", "q", "a", "b") is None


async def test_a_judge_is_asked_in_both_orders_and_must_say_yes_twice() -> None:
    # One that likes whatever comes first.
    partial = SecondOpinion({"j": saying(lambda text: 0.9 if text.index("Paris") < text.index("Rome") else 0.1)})
    assert await partial.say_the_same("j", "Where?", "Paris", "Rome") is False
    fair = SecondOpinion({"j": saying(lambda _: 0.9)})
    assert await fair.say_the_same("j", "Where?", "Paris", "In Paris") is True


def test_who_is_meant() -> None:
    second = SecondOpinion({"small": saying(lambda _: 1), "large": saying(lambda _: 1)})
    assert [second.named(name) for name in (SMALLEST, "large", "gone", None)] == ["small", "large", None, None]
    assert SecondOpinion({}).named(SMALLEST) is None
