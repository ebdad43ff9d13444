from __future__ import annotations

import json
from typing import Any

import pytest

from configs.catalog import VariantSpec, load_catalog
from deployments.chunks import ChunkBuilder, fold
from deployments.contract import ChatError, ChatRequest, CompletionRequest
from deployments.vllm.chat import chat_fields, chunks_of, completion_fields, error_of

SPEC = load_catalog().variant("smollm2-135m-bf16")
VISION = load_catalog().variant("qwen3-vl")
THINKING = load_catalog().variant("qwen3-vl-32b-thinking")


def fields(spec: VariantSpec = SPEC, **asked: Any) -> dict[str, Any]:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **asked})
    return chat_fields(request, spec, "id-1")


def event(**body: Any) -> str:
    return f"data: {json.dumps(body)}\n\n"


def chunks(*events: str) -> list[Any]:
    builder = ChunkBuilder("r1", "v")
    return [chunk for text in events for chunk in chunks_of(text, builder)]


def test_what_is_not_asked_for_is_the_catalogs() -> None:
    made = fields()
    assert (made["temperature"], made["top_p"], made["top_k"]) == (0.2, 0.9, 0)
    assert made["max_tokens"] == SPEC.max_output
    assert made["stream"] and made["stream_options"] == {"include_usage": True}
    assert not {"tools", "tool_choice", "response_format", "logprobs", "thinking_token_budget"} & set(made)
    asked = fields(temperature=0, max_tokens=10**6, seed=7, stop="x", logprobs=True, top_logprobs=3, n=2)
    assert (asked["temperature"], asked["seed"], asked["stop"], asked["n"]) == (0, 7, ["x"], 2)
    assert asked["max_tokens"] == SPEC.max_output, "clamped, not refused"
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 3)
    assert fields(THINKING)["thinking_token_budget"] == 8192


def test_the_templates_own_arguments_are_not_a_requests_to_set() -> None:
    kwargs = {"enable_thinking": True, "chat_template": "{{ evil }}", "tokenize": True}
    assert fields(chat_template_kwargs=kwargs)["chat_template_kwargs"] == {"enable_thinking": True}


def test_messages_get_roles_and_contents_that_templates_know() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "refusal": None},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    made = fields(messages=messages)["messages"]
    assert made[0] == {"role": "system", "content": "Be brief."}
    assert made[1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    assert made[2]["content"] == [{"type": "text", "text": "sunny"}]


def image(url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]


def test_images_are_read_from_the_request_and_from_nowhere_else() -> None:
    inline = image({"url": "data:image/png;base64,AAAA"})
    assert fields(VISION, messages=inline)["messages"][0]["content"][0]["type"] == "image_url"
    for url in ("http://127.0.0.1:8265/", "file:///etc/passwd", "https://x.org/a.png", 7, None, {"url": None}):
        with pytest.raises(ChatError, match="data URLs"):
            fields(VISION, messages=image(url))
    with pytest.raises(ChatError, match="does not read"):
        fields(SPEC, messages=inline)
    with pytest.raises(ChatError, match="'input_audio'"):
        fields(VISION, messages=[{"role": "user", "content": [{"type": "input_audio"}]}])


def test_a_part_holds_what_its_type_says_and_nothing_that_vllm_would_fetch() -> None:
    smuggled = {"uuid": "1", "image_url": "http://127.0.0.1:8265/", "video_url": {"url": "file:///etc/passwd"}}
    parts = [{"type": "text", "text": "Hi", **smuggled}, {"type": "refusal", "refusal": "No", **smuggled}]
    own = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts.append({**smuggled, **own})
    made = fields(VISION, messages=[{"role": "user", "content": parts}])["messages"][0]["content"]
    assert made == [{"type": "text", "text": "Hi"}, {"type": "refusal", "refusal": "No"}, own]


def test_a_raw_prompt_has_no_messages() -> None:
    request = CompletionRequest(prompt="Once", max_tokens=5, logprobs=2).as_chat("Once")
    made = completion_fields(request, SPEC, "id-1")
    assert (made["prompt"], made["max_tokens"], made["logprobs"]) == ("Once", 5, 2)
    assert "messages" not in made


def test_events_become_chunks_of_one_answer() -> None:
    said = chunks(
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "token_ids": None}]),
        event(choices=[{"index": 0, "delta": {"reasoning": "hm", "content": None}}]),
        event(choices=[{"index": 0, "delta": {"content": "Paris"}, "finish_reason": None}]),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 2}]),
        event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
        "data: [DONE]\n\n",
        "\n",
    )
    assert {chunk.id for chunk in said} == {"chatcmpl-r1"}
    assert {chunk.model for chunk in said} == {"v"}
    answer = fold(said)
    assert answer.choices[0].message.content == "Paris"
    assert answer.choices[0].message.to_dict()["reasoning_content"] == "hm"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == 5


def test_legacy_log_probabilities_take_the_chats_form() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.2], "top_logprobs": [{"a": -0.1}, None]}
    (chunk,) = chunks(event(choices=[{"index": 0, "text": "ab", "logprobs": logprobs}]))
    assert chunk.choices[0].delta.content == "ab"
    first, second = chunk.choices[0].logprobs.content
    assert (first.token, first.logprob, first.top_logprobs[0].token) == ("a", -0.1, "a")
    assert second.top_logprobs == []


def test_errors_keep_their_status_and_a_long_prompt_has_openais_code() -> None:
    with pytest.raises(ChatError) as raised:
        chunks(event(error={"message": "maximum context length is 10", "code": 400}))
    assert (raised.value.status, raised.value.code) == (400, "context_length_exceeded")
    assert error_of({"message": "no", "code": 400, "param": "n"}).param == "n"
    assert error_of({"message": "broken", "code": "weird"}).status == 500
    assert error_of({"message": "later", "code": 503}).status == 503
