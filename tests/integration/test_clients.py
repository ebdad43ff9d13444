"""What people really connect with: the openai SDK, curl, LangChain, Simon Willison's llm."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel

from tests.integration.conftest import LARGE, MIDDLE, SMALL, Stack

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_openai_answers_and_says_who_and_why(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "What is the capital of France?"}], max_tokens=30
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-groupqwen-variant"] == answer.model
    assert raw.headers["x-groupqwen-cache"] in ("miss", "exact", "semantic")
    assert raw.headers["x-groupqwen-decision"]
    assert "," not in raw.headers["x-request-id"]
    about = answer.model_dump()["metadata"]
    assert about["request_id"] == raw.headers["x-request-id"]
    assert about["latency_ms"] > 0
    assert about["variant"] == answer.model


def test_openai_streams_with_usage_and_metadata(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=SMALL,
        messages=[{"role": "user", "content": "Count to five."}],
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=40,
        temperature=0,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    finish = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finish in (["stop"], ["length"])
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].model_dump()["metadata"]["variant"] == SMALL


async def test_openai_async_many_at_once(stack: Stack) -> None:
    client = AsyncOpenAI(base_url=stack.url, api_key=stack.key, timeout=120, max_retries=0)

    async def ask(n: int) -> str:
        answer = await client.chat.completions.create(
            model=SMALL,
            messages=[{"role": "user", "content": f"Say the number {n}."}],
            max_tokens=8,
            temperature=0,
        )
        return answer.choices[0].message.content or ""

    assert all(await asyncio.gather(*(ask(n) for n in range(6))))


def test_openai_tool_round_trip(client: OpenAI) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(
        model=LARGE, messages=messages, tools=[WEATHER], tool_choice="required", max_tokens=80, temperature=0
    )  # type: ignore[call-overload]
    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)
    messages.append(first.choices[0].message.model_dump(exclude_none=True))
    messages.append(
        {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "21 °C, sunny"}]}
    )
    second = client.chat.completions.create(
        model=LARGE, messages=messages, tools=[WEATHER], max_tokens=60, temperature=0
    )  # type: ignore[call-overload]
    assert second.choices[0].message.content or second.choices[0].message.tool_calls


def test_openai_streamed_tool_call(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MIDDLE,
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        stream=True,
        max_tokens=80,
        temperature=0,
    )  # type: ignore[call-overload]
    calls = [call for c in stream for choice in c.choices for call in choice.delta.tool_calls or []]
    assert calls[0].function.name == "get_weather"
    assert json.loads("".join(call.function.arguments for call in calls))


def test_openai_parses_a_pydantic_model(client: OpenAI) -> None:
    class Person(BaseModel):
        name: str
        age: int

    answer = client.chat.completions.parse(
        model=LARGE,
        messages=[{"role": "user", "content": "Anna is 31 years old. Extract the person."}],
        response_format=Person,
        temperature=0,
        max_tokens=60,
    )
    person = answer.choices[0].message.parsed
    assert person is not None
    assert person.age == 31


def test_openai_logprobs_n_and_stop(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MIDDLE,
        messages=[{"role": "user", "content": "Count from 1 to 9, separated by commas."}],
        n=2,
        stop=["5"],
        logprobs=True,
        top_logprobs=2,
        max_tokens=40,
        temperature=0,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert "5" not in (choice.message.content or "")
        assert choice.logprobs is not None
        assert len((choice.logprobs.content or [])[0].top_logprobs) == 2


def test_openai_embeddings_base64_and_models(client: OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a cat", "a kitten", "tax law"])
    cat, kitten, law = (item.embedding for item in answer.data)
    assert len(cat) == 384

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(cat, cat) == pytest.approx(1, abs=1e-3)
    assert dot(cat, kitten) > dot(cat, law) + 0.2
    names = [model.id for model in client.models.list()]
    assert names == ["auto", SMALL, MIDDLE, LARGE]
    assert client.models.retrieve(SMALL).owned_by == "groupqwen"


def test_openai_legacy_completions(client: OpenAI) -> None:
    answer = client.completions.create(
        model=LARGE,
        prompt=["The capital of France is", "The capital of Japan is"],
        max_tokens=5,
        temperature=0,
        echo=True,
    )
    assert answer.choices[0].text.startswith("The capital of France is")
    assert "Paris" in answer.choices[0].text
    assert [choice.index for choice in answer.choices] == [0, 1]
    parts = client.completions.create(model=SMALL, prompt="Once upon", max_tokens=5, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices)


def test_openai_errors_are_its_own(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model=SMALL, messages=[{"role": "user", "content": "word " * 9000}])
    assert refused.value.code == "context_length_exceeded"


def test_curl(stack: Stack) -> None:
    body = '{"messages":[{"role":"user","content":"Say hi"}],"stream":true,"max_tokens":5}'
    done = subprocess.run(
        [
            *("curl", "-sN", f"{stack.url}/chat/completions", "-d", body),
            *("-H", f"Authorization: Bearer {stack.key}", "-H", "Content-Type: application/json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def test_langchain(stack: Stack) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(base_url=stack.url, api_key=stack.key, model=SMALL, temperature=0, max_tokens=16)  # type: ignore[call-arg, arg-type]
    assert chat.invoke("Say hello.").content
    assert "".join(str(chunk.content) for chunk in chat.stream("Say hello."))
    embeddings = OpenAIEmbeddings(
        base_url=stack.url,
        api_key=stack.key,  # type: ignore[arg-type]
        model="all-minilm-l6-v2",
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_query("hello")) == 384


def test_llm(stack: Stack, tmp_path: Path) -> None:
    config = f"- model_id: group\n  model_name: auto\n  api_base: {stack.url}\n  api_key_name: group\n"
    (tmp_path / "extra-openai-models.yaml").write_text(config)
    (tmp_path / "keys.json").write_text(json.dumps({"group": stack.key}))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "llm"), "-m", "group", "What is 2 + 2?", "-o", "max_tokens", "20"],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
