from __future__ import annotations

import json
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_token_logprob import TopLogprob

from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import CompletionRequest
from serve_app.completions import text_body, text_chunk

BUILDER = ChunkBuilder("r", "m")
LOGPROB = ChatCompletionTokenLogprob(
    token="a", bytes=[97], logprob=-0.5, top_logprobs=[TopLogprob(token="b", bytes=[98], logprob=-1.0)]
)


def answer(*texts: str) -> list[Any]:
    """One prompt's answer, a text for each choice, in two pieces each."""
    pieces = [BUILDER.delta(n, content=part) for n, text in enumerate(texts) for part in (text[:1], text[1:])]
    ends = [BUILDER.delta(n, finish_reason="length") for n in range(len(texts))]
    return [BUILDER.delta(0, role="assistant", content=""), *pieces, *ends, BUILDER.usage(token_usage(3, 2))]


def test_a_chunk_becomes_a_text_completion_event() -> None:
    event = text_chunk(BUILDER.delta(1, content="a", logprobs=[LOGPROB]), 4)
    assert event is not None
    Completion.model_validate(event | {"choices": []})
    assert (event["id"], event["object"], event["model"]) == ("cmpl-r", "text_completion", "m")
    (choice,) = event["choices"]
    assert (choice["index"], choice["text"], choice["finish_reason"]) == (5, "a", None)
    assert choice["logprobs"]["tokens"] == ["a"]
    assert choice["logprobs"]["token_logprobs"] == [-0.5]
    assert choice["logprobs"]["top_logprobs"] == [{"b": -1.0}]


def test_a_role_says_nothing_and_an_end_and_usage_do() -> None:
    assert text_chunk(BUILDER.delta(0, role="assistant", content=""), 0) is None
    assert text_chunk(BUILDER.delta(0, reasoning="hm"), 0) is None
    end = text_chunk(BUILDER.delta(0, finish_reason="stop"), 0)
    assert end is not None
    assert (end["choices"][0]["text"], end["choices"][0]["finish_reason"]) == ("", "stop")
    usage = text_chunk(BUILDER.usage(token_usage(3, 2)), 0)
    assert usage is not None
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)


def test_the_answers_of_several_prompts_are_numbered_as_openai_does() -> None:
    request = CompletionRequest.model_validate({"prompt": ["x", "y"], "n": 2})
    body = text_body(request, [answer("one", "two"), answer("three", "four")])
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
        (3, "four"),
    ]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    assert Completion.model_validate(body).id == "cmpl-r"


def test_echo_repeats_a_text_prompt_and_logprobs_are_joined() -> None:
    request = CompletionRequest.model_validate({"prompt": "1+1=", "echo": True, "logprobs": 1})
    chunks = [
        BUILDER.delta(0, content="a", logprobs=[LOGPROB]),
        BUILDER.delta(0, content="a", logprobs=[LOGPROB, LOGPROB]),
    ]
    (choice,) = text_body(request, [chunks])["choices"]
    assert choice["text"] == "1+1=aa"
    assert choice["logprobs"]["tokens"] == ["a", "a", "a"]
    half = CompletionRequest.model_validate({"prompt": "a\ud83d", "echo": True})
    assert json.dumps(text_body(half, [answer("x!")]), ensure_ascii=False).encode()
    tokens = CompletionRequest.model_validate({"prompt": [1, 2], "echo": True})
    assert text_body(tokens, [answer("x!")])["choices"][0]["text"] == "x!"
