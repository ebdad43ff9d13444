from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.contract import (
    ChatError,
    ChatRequest,
    CompletionRequest,
    RequestContext,
    context_too_long,
    engine_gone,
    invalid,
    queue_full,
)

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
@pytest.mark.parametrize("content", ["text", [{"type": "text", "text": "part"}], [], None])
def test_content_may_be_text_parts_or_null_in_every_role(role: str, content: Any) -> None:
    message = {"role": role, "content": content, "tool_call_id": "kept"}
    assert request(messages=[message]).messages == [message]
    without = {"role": role}
    assert request(messages=[without]).messages == [without]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "robot"}]}, r"messages\[1\].role"),
        ({"messages": [{"role": ["user"]}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\].content"),
        ({"logit_bias": {"seven": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"7": float("nan")}}, "logit_bias"),
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\]"),
        ({"tools": [*TOOLS, {"type": "function", "function": {"name": ""}}]}, r"tools\[1\].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": "none"}}]}, r"tools\[0\].function.parameters"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "'g'.*not declare"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "not declare"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": "f"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": ["f"]}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tools is empty"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"n": 0}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        request(**fields)


def test_what_clients_send_by_habit_is_accepted() -> None:
    habit = request(
        stop="END",
        n=None,
        stream=None,
        logprobs=None,
        chat_template_kwargs=None,
        tools=[{"type": "function", "function": {"name": "f", "parameters": None}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        logit_bias={"42": -100},
        parallel_tool_calls=True,
        service_tier="auto",
    )
    assert habit.stop == ["END"]
    assert (habit.n, habit.stream, habit.logprobs, habit.chat_template_kwargs) == (1, False, False, {})
    assert habit.logit_bias == {"42": -100}
    assert "service_tier" not in habit.model_dump()
    assert request(stop=["", "a"]).stop == ["a"]
    assert request(stop="").stop == []


def test_the_newer_name_of_the_token_limit_wins() -> None:
    assert request().token_limit is None
    assert request(max_tokens=5).token_limit == 5
    assert request(max_completion_tokens=6).token_limit == 6
    assert request(max_tokens=5, max_completion_tokens=6).token_limit == 6
    assert request(max_tokens=5, max_completion_tokens=0).token_limit == 0


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_completions_prompts_one_by_one(prompt: Any, prompts: Any) -> None:
    assert CompletionRequest.model_validate({"prompt": prompt}).prompts == prompts


def test_a_completion_becomes_a_raw_prompt_with_its_sampling_fields() -> None:
    asked = CompletionRequest.model_validate(
        {"prompt": "a", "temperature": 0, "stop": "\n", "logprobs": 3, "n": 2, "model": "m", "echo": True}
    )
    raw = asked.as_chat("a")
    assert (raw.prompt, raw.temperature, raw.stop, raw.n, raw.model) == ("a", 0, ["\n"], 2, "m")
    assert (raw.logprobs, raw.top_logprobs) == (True, 3)
    assert raw.token_limit == 16, "OpenAI's default"
    assert CompletionRequest.model_validate({"prompt": [1], "max_tokens": 3}).as_chat([1]).token_limit == 3
    assert CompletionRequest.model_validate({"prompt": [1]}).as_chat([1]).logprobs is False


def test_the_numbered_contexts_of_one_request_differ_in_their_ids_only() -> None:
    context = RequestContext("r", key_id="k", device="mobile", received=1.0)
    assert context.numbered(0) is context
    second = context.numbered(2)
    assert second.request_id == "r-2"
    assert (second.key_id, second.device, second.received) == ("k", "mobile", 1.0)


@pytest.mark.parametrize(
    "error",
    [
        invalid("wrong", param="messages", code="bad"),
        context_too_long(9, 8),
        queue_full(2.5),
        engine_gone("qwen3-8b"),
        ChatError("plain"),
    ],
)
def test_an_error_survives_pickling_whole(error: ChatError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ChatError
    assert again.__dict__ == error.__dict__
    assert str(again) == error.message
    assert again.body() == {
        "error": {"message": error.message, "type": error.kind, "code": error.code, "param": error.param}
    }


def test_errors_carry_openais_codes() -> None:
    too_long = context_too_long(5000, 4096)
    assert (too_long.status, too_long.code) == (400, "context_length_exceeded")
    assert "5000" in too_long.message
    assert "4096" in too_long.message
    assert (queue_full(2).status, queue_full(2).retry_after) == (429, 2)
    assert engine_gone("v").status == 503
