"""The endpoint's manners: routes, cache, errors, keep-alives, WebSocket, metrics, health, OpenAPI."""

from __future__ import annotations

import http.client
import json
import re
import time
import uuid
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.integration.conftest import LARGE, MIDDLE, QWENS_NO_END, SMALL, Stack, wait_for
from tests.serve_app.pictures import data_url, picture

PICTURE = data_url(picture())
ENDLESS = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "model": LARGE,
    "logit_bias": QWENS_NO_END,
    "max_tokens": 600,
}
"""It is still at work when it is cancelled."""


def error_of(response: httpx.Response) -> dict[str, object]:
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "code", "param"}
    assert response.headers["x-request-id"]
    return dict(error)


def test_routes(stack: Stack) -> None:
    def route(text: str, **more: object) -> dict[str, object]:
        answer = stack.ask(text, max_tokens=2, **more).json()
        return dict(answer["metadata"])

    assert route("Hi")["variant"] == SMALL
    code = route("Write a python function that reverses a list")
    assert code["variant"] == LARGE
    assert code["route"]["task"] == "code"  # type: ignore[index]
    assert code["route"]["reason"] == "code goes to the coder"  # type: ignore[index]
    assert len(code["route"]["candidates"]) == 3  # type: ignore[index, arg-type]
    assert route("Hi", model=MIDDLE)["variant"] == MIDDLE
    assert route("Hi", model="complex")["variant"] == LARGE
    assert route("Hi", model="gpt-4o-mini")["variant"] == MIDDLE
    assert route("Translate 'good morning' into French")["variant"] == LARGE


def test_a_phone_is_served_by_a_small_variant(stack: Stack) -> None:
    hard = (
        "Analyze and compare in depth, step by step, the trade-off and strategy. First why? Then how? Finally? "
        * 9
    )
    body = {"messages": [{"role": "user", "content": hard}], "max_tokens": 2}
    at_desk = stack.post("/chat/completions", body, **{"cache-control": "no-store"}).json()["metadata"]
    on_phone = stack.post(
        "/chat/completions", body, **{"cache-control": "no-store", "x-groupqwen-device": "mobile"}
    ).json()["metadata"]
    assert (at_desk["variant"], on_phone["variant"]) == (LARGE, MIDDLE)
    assert "capped at simple for mobile" in on_phone["route"]["reason"]


def test_cache_exact_semantic_and_bypass(stack: Stack) -> None:
    word = uuid.uuid4().hex[:8]
    fields = {"model": MIDDLE, "max_tokens": 200}
    first = stack.ask(f"In one word: what colour is {word} grass?", cache="no-cache", **fields)
    assert first.headers["x-groupqwen-cache"] == "miss"
    assert first.json()["choices"][0]["finish_reason"] == "stop"

    def exact() -> bool:
        again = stack.ask(f"In one word: what colour is {word} grass?", cache=None, **fields)
        return again.headers["x-groupqwen-cache"] == "exact" and (
            again.json()["choices"][0]["message"] == first.json()["choices"][0]["message"]
        )

    wait_for(exact, 20, "an identical request was not answered from the cache")
    similar = stack.ask(f"In one word, what colour is {word} grass?", cache=None, **fields)
    assert similar.headers["x-groupqwen-cache"] == "semantic"
    assert similar.json()["metadata"]["cache_distance"] <= 0.10
    denied = stack.ask(f"In one word: what colour is {word} grass not?", cache=None, **fields)
    assert denied.headers["x-groupqwen-cache"] == "miss", "a guard speaks against it"
    assert denied.json()["metadata"]["cache_distance"] <= 0.10, "near as it is"
    other_system = stack.post(
        "/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "Answer in German."},
                {"role": "user", "content": f"In one word: what colour is {word} grass?"},
            ],
            "temperature": 0,
            **fields,
        },
    )
    assert other_system.headers["x-groupqwen-cache"] == "miss"
    assert (
        stack.ask(f"In one word: what colour is {word} grass?", **fields).headers["x-groupqwen-cache"] == "bypass"
    )
    streamed = stack.ask(f"In one word: what colour is {word} grass?", cache=None, stream=True, **fields)
    assert streamed.headers["x-groupqwen-cache"] == "exact"
    assert streamed.text.rstrip().endswith("data: [DONE]")
    stats = stack.get("/cache/stats").json()
    assert stats["outcomes"]["exact"] >= 2
    assert stats["entries"] >= 1
    assert stack.post("/cache/clear", {}).json()["deleted"] >= 2
    gone = stack.ask(f"In one word: what colour is {word} grass?", cache=None, **fields)
    assert gone.headers["x-groupqwen-cache"] == "miss"


def test_errors_are_openais(stack: Stack) -> None:
    url = f"{stack.url}/chat/completions"
    broken = httpx.post(url, content=b"{nope", headers={**stack.headers, "content-type": "application/json"})
    assert broken.status_code == 400
    assert "JSON" in str(error_of(broken)["message"])
    missing = stack.post("/chat/completions", {"messages": [{"role": "user", "content": "x"}], "model": "gpt-9"})
    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")
    too_long = stack.ask("word " * 20_000, model=SMALL)
    assert (too_long.status_code, error_of(too_long)["code"]) == (400, "context_length_exceeded")
    streamed = stack.ask("word " * 20_000, model=SMALL, stream=True)
    assert (streamed.status_code, error_of(streamed)["code"]) == (400, "context_length_exceeded")
    empty = stack.post("/chat/completions", {"messages": []})
    assert (empty.status_code, error_of(empty)["param"]) == (400, "messages")
    image = stack.post(
        "/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]},
    )
    assert (image.status_code, error_of(image)["code"]) == (400, "unsupported_modality")
    tokens = stack.post("/embeddings", {"input": [[1, 2, 3]]})
    assert tokens.status_code == 400
    assert "check_embedding_ctx_length" in str(error_of(tokens)["message"])
    nowhere = stack.get("/nowhere")
    assert (nowhere.status_code, error_of(nowhere)["type"]) == (404, "not_found_error")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "https://example.com/s"}}}
    assert stack.ask("x", response_format=schema, model=SMALL).status_code == 400


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer gq-wrong"}, {"Authorization": "Basic Zm9v"}])
def test_no_key_no_answer(stack: Stack, headers: dict[str, str]) -> None:
    for path in ("/models", "/cache/stats", "/metrics"):
        assert httpx.get(stack.url + path, headers=headers).status_code == 401
    refused = httpx.post(f"{stack.url}/chat/completions", json={"messages": []}, headers=headers)
    assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
    open_health = httpx.get(f"{stack.url}/health", headers=headers).json()
    assert open_health["live"] is True
    assert open_health["parts"] is None


def test_a_body_that_is_too_large_is_refused_before_it_is_read(stack: Stack) -> None:
    response = httpx.post(
        f"{stack.url}/chat/completions", content=b"x" * (33 * 2**20), headers=stack.headers, timeout=60
    )
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


def test_contents_of_every_form_are_taken_in_every_role(stack: Stack) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": "Say yes."},
    ]
    answer = stack.post("/chat/completions", {"messages": messages, "max_tokens": 10_000_000, "model": MIDDLE})
    assert answer.status_code == 200, answer.text


def test_headers_come_at_once_and_a_silent_stream_is_kept_alive(stack: Stack) -> None:
    # A prompt that takes far longer than a keep-alive to read on this machine would make the test slow;
    # the keep-alive itself is tested on AnswerStream. Here: headers long before the first token.
    body = {
        "messages": [{"role": "user", "content": "word " * 1500}],
        "stream": True,
        "max_tokens": 2,
        "model": LARGE,
    }
    started = time.monotonic()
    headers = {**stack.headers, "cache-control": "no-store"}
    with httpx.stream(
        "POST", f"{stack.url}/chat/completions", json=body, headers=headers, timeout=120
    ) as response:
        to_headers = time.monotonic() - started
        assert response.headers["x-groupqwen-variant"] == LARGE
        text = "".join(response.iter_text())
    assert to_headers < 0.5 * (time.monotonic() - started)
    assert text.rstrip().endswith("data: [DONE]")


def test_websocket(stack: Stack) -> None:
    url = stack.url.replace("http://", "ws://") + "/chat/ws"
    request = {"messages": [{"role": "user", "content": "Count to three."}], "model": SMALL, "max_tokens": 12}
    with connect(url, additional_headers=stack.headers) as socket:
        for _ in range(2):
            socket.send(json.dumps(request))
            seen = []
            while (message := json.loads(socket.recv(timeout=60))).get("type") != "done":
                seen.append(message)
            assert "".join(c["delta"].get("content", "") for m in seen for c in m["choices"])
            assert seen[-1]["usage"]["completion_tokens"] > 0
        socket.send("{}")
        assert json.loads(socket.recv(timeout=10))["error"]["type"] == "invalid_request_error"
    with connect(url) as socket:
        socket.send(json.dumps({"api_key": stack.key}))
        socket.send(json.dumps(request))
        assert json.loads(socket.recv(timeout=30))["choices"]
    with connect(url) as socket:
        socket.send(json.dumps({"api_key": "gq-wrong"}))
        assert json.loads(socket.recv(timeout=30))["error"]["code"] == "invalid_api_key"


def test_websocket_cancel(stack: Stack) -> None:
    url = stack.url.replace("http://", "ws://") + "/chat/ws"
    short = {**ENDLESS, "max_tokens": 2}

    def until(socket: ClientConnection, kind: str) -> None:
        while (message := json.loads(socket.recv(timeout=60))).get("type") != kind:
            assert "choices" in message, message

    with connect(url, additional_headers=stack.headers) as socket:
        for _ in range(3):
            socket.send(json.dumps(ENDLESS))
            socket.recv(timeout=30)
            # What comes meanwhile waits for its turn.
            socket.send(json.dumps(short))
            socket.send(json.dumps({"type": "cancel"}))
            until(socket, "cancelled")
            until(socket, "done")
        # One that comes too late is not taken for a request.
        socket.send(json.dumps({"type": "cancel"}))
        socket.send(json.dumps(short))
        until(socket, "done")
        socket.send(json.dumps(ENDLESS))
        for _ in range(12):
            socket.send(json.dumps(short))
        while "error" not in (message := json.loads(socket.recv(timeout=30))):
            assert "choices" in message
        assert message["error"]["code"] == "queue_full"


def test_websocket_requests_follow_each_other_at_once(stack: Stack) -> None:
    # The next request may come before the last answer's end is known here: it was once taken for an interruption.
    url = stack.url.replace("http://", "ws://") + "/chat/ws"
    request = {"messages": [{"role": "user", "content": "Count to three."}], "model": SMALL, "max_tokens": 1}
    with connect(url, additional_headers=stack.headers) as socket:
        for _ in range(30):
            socket.send(json.dumps(request))
            while (message := json.loads(socket.recv(timeout=60))).get("type") != "done":
                assert "choices" in message, message


def test_models_say_what_they_are_and_do(stack: Stack) -> None:
    models = {model["id"]: model for model in stack.get("/models").json()["data"]}
    for name in (SMALL, MIDDLE, LARGE):
        model = models[name]
        assert model["status"]["state"] == "awake"
        assert model["engine"] == "llama.cpp"
        assert model["status"]["memory_mb"] > 100
        assert model["declared_memory_mb"] > 100
    assert stack.get("/models/nobody").status_code == 404


def test_metrics_parse_and_count(stack: Stack) -> None:
    stack.ask("Count me.", max_tokens=2)

    def counted() -> bool:
        text = stack.get("/metrics").text
        return bool(re.search(r"^ray_groupqwen_route_decisions_total\{.*\} [1-9]", text, re.MULTILINE))

    wait_for(counted, 60, "the decision does not show in the metrics")
    for line in stack.get("/metrics").text.splitlines():
        assert re.match(r"^(# (HELP|TYPE) |ray_(groupqwen|serve)_\w+(\{.*\})? -?[\d.e+naif-]+$)", line, re.I), line


def test_health_part_by_part(stack: Stack) -> None:
    stack.wait_until_well()
    health = stack.get("/health").json()
    assert health["ready"] is True
    assert set(health["parts"]) == {"router", "classifier", "cache", "ledger", "finetuning", "variants"}
    assert set(health["parts"]["variants"].values()) == {"awake"}


def test_every_query_is_in_the_ledger(stack: Stack) -> None:
    import asyncio

    import asyncpg

    answer = stack.ask("Who \x00 are \ud800 you?".encode("utf-8", "replace").decode(), max_tokens=3)
    failed = stack.ask("word " * 20_000, model=SMALL)
    ids = [answer.headers["x-request-id"], failed.headers["x-request-id"]]
    url = stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"]

    async def rows() -> dict[str, asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            found = await connection.fetch("select * from queries where request_id = any($1)", ids)
            return {record["request_id"]: record for record in found}
        finally:
            await connection.close()

    wait_for(lambda: len(asyncio.run(rows())) == 2, 40, "a query is missing from the ledger")
    good, bad = (asyncio.run(rows())[i] for i in ids)
    assert good["variant"] == answer.json()["metadata"]["variant"]
    assert good["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert good["status"] == 200
    assert good["ttft_ms"] <= good["latency_ms"]
    assert json.loads(good["trace"])["reason"]
    assert bad["status"] == 400
    assert "context" in bad["error"]


def test_two_hundred_streams_at_once(stack: Stack) -> None:
    import asyncio

    from benchmarks.load import Target, run

    before = {process.pid for process in stack.processes("ServeReplica")}
    memory = sum(psutil.Process(pid).memory_info().rss for pid in before)
    target = Target("group", stack.url, SMALL, stack.key, {"cache-control": "no-store"})
    bodies = [
        {"messages": [{"role": "user", "content": f"Tell me about the number {n}."}], "max_tokens": 8}
        for n in range(200)
    ]
    answers, _ = asyncio.run(run(target, bodies, 200))
    assert len(answers) == 200
    for answer in answers:
        assert answer.complete or answer.status == 429, answer
    assert sum(answer.complete for answer in answers) >= 100
    assert {process.pid for process in stack.processes("ServeReplica")} == before
    grown = sum(psutil.Process(pid).memory_info().rss for pid in before) - memory
    assert grown < 500 * 2**20
    stack.wait_until_well()


def leave_early(stack: Stack, stream: bool) -> None:
    """Ask for a long answer, go away once it is being made, and wait until the variant is idle again."""

    def at_work() -> int:
        return int(stack.status(LARGE)["active"])

    wait_for(lambda: at_work() == 0, 60, "it is busy with something else")
    cancelled = stack.status(LARGE)["cancelled"]
    # (Asked first also so that HAProxy has a used connection to the Gateway: on those, with its socket splicing,
    # it never passed on that a client left.)
    address = urlsplit(stack.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 80, timeout=30)
    headers = {**stack.headers, "cache-control": "no-store", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps({**ENDLESS, "stream": stream}), headers)
    # Who leaves before the variant has heard of the request holds no slot.
    wait_for(lambda: at_work() == 1, 60, "the request did not get there")
    connection.close()
    wait_for(lambda: at_work() == 0, 40, "the slot was not freed")
    assert stack.status(LARGE)["cancelled"] > cancelled, "it came to its end"


def test_a_client_that_leaves_a_stream_frees_its_slot(stack: Stack) -> None:
    leave_early(stack, stream=True)


def test_a_client_that_leaves_before_a_whole_answer_frees_its_slot(stack: Stack) -> None:
    leave_early(stack, stream=False)


def test_the_document_describes_the_api(stack: Stack) -> None:
    document = httpx.get(stack.url.removesuffix("/v1") + "/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/cache/stats",
        "/v1/cache/clear",
        "/v1/health",
        "/v1/metrics",
    }
    assert "HTTPBearer" in document["components"]["securitySchemes"]
    assert httpx.get(stack.url.removesuffix("/v1") + "/docs").status_code == 200
