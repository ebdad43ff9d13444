"""The same conversation on llama.cpp and on vLLM, through one endpoint; and vLLM under Residency."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from configs.catalog import load_catalog
from configs.planner import lay_out
from configs.profile import load_profile
from tests.deployments.adapters.made import TOKENS, peft_adapter, published
from tests.deployments.vllm.test_options import start
from tests.integration.conftest import MIXED, NO_END, SMALL, Stack, wait_for
from tests.serve_app.pictures import data_url, picture

ON_VLLM = "smollm2-135m-bf16"
BOTH = pytest.mark.parametrize("model", [SMALL, ON_VLLM])

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
CITY = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def two_engines(stack: Stack) -> Stack:
    """The stack with a profile of both engines."""
    stack.use(MIXED)
    return stack


@pytest.fixture(scope="module")
def awake(two_engines: Stack) -> OpenAI:
    """A client, once the first request has brought vLLM in."""
    assert two_engines.status(ON_VLLM)["state"] == "absent"
    client = two_engines.client(timeout=300)
    said = ask(client, ON_VLLM)
    assert "Paris" in said.choices[0].message.content
    assert two_engines.status(ON_VLLM)["state"] == "awake"
    return client


def ask(client: OpenAI, model: str, **fields: Any) -> Any:
    given = {"messages": QUESTION, "temperature": 0, "max_tokens": 20, **fields}
    return client.chat.completions.create(model=model, extra_headers={"cache-control": "no-store"}, **given)


@BOTH
def test_a_stream_says_what_a_whole_answer_says(awake: OpenAI, model: str) -> None:
    whole = ask(awake, model)
    chunks = list(ask(awake, model, stream=True, stream_options={"include_usage": True}))
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 3
    assert {chunk.model for chunk in chunks} == {model}


@BOTH
def test_logprobs_are_those_of_the_answer(awake: OpenAI, model: str) -> None:
    choice = ask(awake, model, logprobs=True, top_logprobs=2, max_tokens=6).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 2
        assert token.logprob == max(other.logprob for other in token.top_logprobs) <= 0


def test_the_engines_agree_on_the_first_token(awake: OpenAI) -> None:
    """The same weights, once quantized and once made bf16 from that: the same distribution, nearly."""
    first = [
        ask(awake, model, logprobs=True, top_logprobs=1, max_tokens=1).choices[0].logprobs.content[0]
        for model in (SMALL, ON_VLLM)
    ]
    assert first[0].token == first[1].token
    assert first[0].logprob == pytest.approx(first[1].logprob, abs=0.2)


@BOTH
def test_json_schemas_are_kept(awake: OpenAI, model: str) -> None:
    answer = ask(awake, model, response_format=CITY, max_tokens=60).choices[0].message.content
    assert json.loads(answer)["city"] in ("Paris", "Rome")


@BOTH
def test_tools_are_called_and_their_results_read(awake: OpenAI, model: str) -> None:
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    fields = {"tools": [WEATHER], "max_tokens": 80}
    message = ask(awake, model, messages=asked, tool_choice="required", **fields).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    # (The call's id is made by chance, and the model reads it: with another one it may say another thing.)
    said = message.to_dict()
    said["tool_calls"][0]["id"] = "call_1"
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"}
    told = [*asked, said, result]
    assert "sunny" in ask(awake, model, messages=told, **fields).choices[0].message.content.lower()


@BOTH
def test_a_limit_beyond_the_context_is_clamped_and_a_prompt_beyond_it_refused(awake: OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "word " * 950}]
    used = ask(awake, model, messages=messages, max_tokens=1000, stop=["."]).usage
    assert used.total_tokens <= 1024
    with pytest.raises(BadRequestError) as refused:
        ask(awake, model, messages=[{"role": "user", "content": "word " * 2000}])
    assert refused.value.code == "context_length_exceeded"


@BOTH
def test_a_control_token_that_someone_typed_is_text(awake: OpenAI, model: str) -> None:
    def prompt_tokens(text: str, **fields: Any) -> int:
        said = ask(awake, model, messages=[{"role": "user", "content": text}], max_tokens=1, **fields)
        return int(said.usage.prompt_tokens)

    def offering(description: str) -> list[Any]:
        return [{**WEATHER, "function": {**WEATHER["function"], "description": description}}]

    ended = "<|im_end|>"
    parts = [{"role": "user", "content": [{"type": "text", "text": ended}]}]
    assert prompt_tokens(ended) > prompt_tokens("x") + 3, "as one token it would be as long as a letter"
    if model == SMALL:  # (This model's own template, which vLLM renders, has no place for tools.)
        plain, typed = (prompt_tokens("x", tools=offering(text)) for text in ("x", ended))
        assert typed > plain + 3, "a tool's description is text too"
    assert ask(awake, model, messages=parts, max_tokens=1).usage.prompt_tokens == prompt_tokens(ended)


@BOTH
def test_raw_prompts_are_completed(awake: OpenAI, model: str) -> None:
    done = awake.completions.create(model=model, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in done.choices[0].text


def test_many_at_once_and_one_that_leaves(awake: OpenAI, two_engines: Stack) -> None:
    before = two_engines.status(ON_VLLM)["cancelled"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(awake, ON_VLLM, max_tokens=12), range(8)))
    assert all("Paris" in answer.choices[0].message.content for answer in answers)
    stream = ask(awake, ON_VLLM, stream=True, max_tokens=900, logit_bias=NO_END)
    next(iter(stream))
    stream.close()
    wait_for(lambda: two_engines.status(ON_VLLM)["cancelled"] > before, 60, "the cancellation was not noticed")
    wait_for(lambda: two_engines.status(ON_VLLM)["active"] == 0, 60, "vLLM went on for nobody")


def test_an_adapter_answers_beside_its_base(awake: OpenAI, two_engines: Stack) -> None:
    """Alone and in one batch with it; both were loaded once, and neither is restarted."""
    adapters, name = two_engines.settings.home.adapters, "by-hand"
    shutil.rmtree(adapters, ignore_errors=True)
    peft_adapter(adapters / name / "peft")
    model = published(adapters, name, ON_VLLM, {"peft": "peft"}).model
    replica = two_engines.replica(ON_VLLM)

    def said(model: str) -> str:
        return str(ask(awake, model, max_tokens=TOKENS).choices[0].message.content)

    try:
        promoted = two_engines.post(f"/adapters/{name}/promote", {})
        assert promoted.status_code == 200, promoted.text
        alone = {one: said(one) for one in (ON_VLLM, model)}
        assert alone[model] != alone[ON_VLLM]
        assert "Paris" in alone[ON_VLLM]
        models = [ON_VLLM, model] * 4
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(said, models)) == [alone[one] for one in models]
        streamed = list(ask(awake, model, max_tokens=TOKENS, stream=True))
        assert {chunk.model for chunk in streamed} == {model}
        assert [key.partition("@")[0] for key in two_engines.status(ON_VLLM)["adapters"]] == [model]
        assert two_engines.post(f"/adapters/{name}/demote", {}).status_code == 200
        with pytest.raises(NotFoundError, match="not promoted"):
            said(model)
        wait_for(lambda: not two_engines.status(ON_VLLM)["adapters"], 40, "vLLM has not forgotten it")
        assert said(ON_VLLM) == alone[ON_VLLM]
        assert two_engines.replica(ON_VLLM) == replica
    finally:
        shutil.rmtree(adapters)


def test_the_plan_is_what_vllm_reports(awake: OpenAI, two_engines: Stack) -> None:
    """Within a tenth: KV cache tokens as vLLM has laid them out, weights as the checkpoint has them, and all of
    its memory as the system counts it."""
    del awake
    catalog = load_catalog()
    row = lay_out(load_profile(str(MIXED), catalog).on(None), catalog, 0).rows[1]
    status = two_engines.status(ON_VLLM)
    assert status["kv_tokens"] == pytest.approx(4096, rel=0.1)
    weights = two_engines.settings.home.model_folder(ON_VLLM) / "model.safetensors"
    assert weights.stat().st_size / 2**20 == pytest.approx(row.weights_mb, rel=0.1)
    assert status["memory_mb"] == pytest.approx(row.total_mb, rel=0.1)


def test_nothing_of_vllm_listens_beyond_loopback(awake: OpenAI, two_engines: Stack) -> None:
    del awake
    family = two_engines.replica(ON_VLLM).children(recursive=True)
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}


def test_it_leaves_when_it_is_told_to_and_its_memory_is_free(awake: OpenAI, two_engines: Stack) -> None:
    del awake
    family = [one for one in two_engines.replica(ON_VLLM).children(recursive=True) if "VLLM" in one.name()]
    assert len(family) == 2
    assert two_engines.post(f"/models/{ON_VLLM}/unload", {}).status_code == 200
    wait_for(lambda: two_engines.status(ON_VLLM)["state"] == "absent", 60, "it did not leave")
    wait_for(lambda: not any(is_alive(one) for one in family), 40, "a process of vLLM's was left")
    assert two_engines.status(ON_VLLM)["memory_mb"] < 1500
    # Who is kept always has no place to give.
    assert two_engines.post(f"/models/{SMALL}/unload", {}).status_code == 409
    assert two_engines.status(SMALL)["state"] == "awake"


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. One that has ended and waits for its parent to look holds nothing any more."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("url", ["http://127.0.0.1:8265/", "https://example.com/a.png", "file:///etc/passwd"])
def test_vllm_itself_would_fetch_nothing(url: str) -> None:
    # The last of three doors: the Gateway lets no URL through, and the variant hands none on.
    from vllm.multimodal.media.connector import MediaConnector

    _, begun = start("qwen3-vl", "cuda", 24_000, context=8192)
    connector = MediaConnector(allowed_media_domains=begun.arguments["allowed_media_domains"])
    with pytest.raises((ValueError, RuntimeError), match=r"allowed domains|local files"):
        connector.fetch_image(url)
    assert connector.fetch_image(data_url(picture())).media.size == (4, 3)
