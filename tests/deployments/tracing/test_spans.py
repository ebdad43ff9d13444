from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from configs.home import Home
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatRequest, RequestContext, engine_gone, invalid
from deployments.tracing import attributes, export
from deployments.tracing.attributes import NOT_WATCHED, answered
from deployments.tracing.export import FileExporter
from deployments.tracing.spans import UNTRACED, Traced, measured, parent_of, step

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture()
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Spans go into a file of this test's own."""
    home = Home(tmp_path)
    home.make()
    monkeypatch.setattr(export, "home", lambda: home)
    monkeypatch.setattr(export, "EVERY_SECONDS", 0.05)
    export._tracer.cache_clear()
    return home.logs / "traces.jsonl"


def read(path: Path, count: int) -> dict[str, dict[str, object]]:
    until = time.monotonic() + 10
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < until, "the spans did not come"
        time.sleep(0.02)
    return {span["name"]: span for span in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (PARENT, PARENT),
        (PARENT.removesuffix("01") + "00", PARENT),  # Whether it is sampled is not the client's to say.
        (f" {PARENT} ", PARENT),
        (f"cc-{'a' * 32}-{'b' * 16}-09-what-the-future-brings", PARENT),
        (None, ""),
        ("", ""),
        (PARENT.upper(), ""),
        (PARENT.replace("a", "0"), ""),
        (PARENT.replace("b", "0"), ""),
        (f"ff{PARENT[2:]}", ""),
        (PARENT * 2, ""),
    ],
)
def test_a_client_names_a_parent_and_nothing_more(header: str | None, parent: str) -> None:
    assert parent_of(header) == parent


async def test_what_is_not_traced_makes_no_spans() -> None:
    context = RequestContext("r1")
    own = step(context, "route")
    assert own is UNTRACED and not own and own.within(context) is context
    assert answered("small", ChatRequest(messages=[{"role": "user"}]), context, {}) is NOT_WATCHED

    async def work() -> int:
        return 1

    coroutine = work()
    assert measured(context, "work", coroutine) is coroutine
    assert await coroutine == 1


def test_spans_hang_together_and_tell_of_the_request(traces: Path) -> None:
    context = RequestContext("r1", trace=Traced(PARENT, "file"))

    async def work() -> int:
        return 1

    with step(context, "route", "server", start=time.time() - 5) as own:
        inner = own.within(context)
        assert inner.trace is not None and inner.trace.to == "file"
        assert asyncio.run(measured(inner, "classify", work())) == 1
    spans = read(traces, 2)
    route, classify = spans["route"], spans["classify"]
    assert route["parent_id"] == f"0x{'b' * 16}"
    assert classify["parent_id"] == route["context"]["span_id"]  # type: ignore[index]
    assert {span["context"]["trace_id"] for span in spans.values()} == {f"0x{'a' * 32}"}  # type: ignore[index]
    assert all(span["attributes"]["groupqwen.request_id"] == "r1" for span in spans.values())  # type: ignore[index]
    assert str(route["start_time"]) < str(classify["start_time"])


def test_an_error_tells_its_kind_and_not_its_words(traces: Path) -> None:
    context = RequestContext("r1", trace=Traced("", "file"))
    for name, error in (
        ("ours", engine_gone("small")),
        ("theirs", invalid("a SECRET")),
        ("bug", KeyError("SECRET")),
    ):
        with pytest.raises(type(error)), step(context, name):
            raise error
    spans = read(traces, 3)
    assert {name: span["attributes"]["error.type"] for name, span in spans.items()} == {  # type: ignore[index]
        "ours": "engine_unavailable",
        "theirs": "ChatError",
        "bug": "KeyError",
    }
    states = {name: span["status"]["status_code"] for name, span in spans.items()}  # type: ignore[index]
    assert states == {"ours": "ERROR", "theirs": "UNSET", "bug": "ERROR"}
    assert "SECRET" not in traces.read_text()


def test_a_variant_tells_how_long_it_waited_read_and_wrote(traces: Path) -> None:
    context = RequestContext("r1", trace=Traced("", "file"))
    request = ChatRequest(messages=[{"role": "user", "content": "SECRET"}], max_tokens=7)
    builder = ChunkBuilder("r1", "small")
    taken_up: dict[str, float] = {}
    with answered("small", request, context, taken_up) as own:
        own.let_in()
        own.see([builder.delta(0, role="assistant", content="")])
        taken_up["r1"] = time.time()
        own.see([builder.delta(0, content="SECRET")])
        own.see([builder.delta(0, finish_reason="stop"), builder.usage(token_usage(5, 2, cached=1))])
    assert taken_up == {}
    spans = read(traces, 4)
    whole = spans.pop("chat small")
    assert set(spans) == {"queue", "prefill", "decode"}
    assert all(span["parent_id"] == whole["context"]["span_id"] for span in spans.values())  # type: ignore[index]
    assert spans["queue"]["end_time"] == spans["prefill"]["start_time"]
    assert spans["prefill"]["end_time"] == spans["decode"]["start_time"]
    told = whole["attributes"]
    assert told["gen_ai.request.max_tokens"] == 7  # type: ignore[index]
    assert told["gen_ai.usage.output_tokens"] == 2 and told["gen_ai.usage.cache_read.input_tokens"] == 1  # type: ignore[index]
    assert "SECRET" not in traces.read_text()


@pytest.mark.parametrize("words", [False, True])
def test_words_are_in_the_gateways_span_only_where_the_owner_wants_them(traces: Path, words: bool) -> None:
    context = RequestContext("r1", trace=Traced("", "file", words))
    request = ChatRequest(messages=[{"role": "user", "content": "a question"}])
    builder = ChunkBuilder("r1", "small")

    async def answer(request: ChatRequest, context: RequestContext):  # type: ignore[no-untyped-def]
        yield builder.delta(0, content="an answer")
        yield builder.delta(0, finish_reason="stop")

    async def ask() -> None:
        async for _ in attributes.from_gateway(answer, request, context):
            pass

    asyncio.run(ask())
    (span,) = read(traces, 1).values()
    assert ("a question" in json.dumps(span)) is words
    assert ("an answer" in json.dumps(span)) is words


def test_the_names_of_attributes_are_those_of_the_convention() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    text = Path(attributes.__file__).read_text()
    used = set(re.findall(r'"(gen_ai\.[a-z_.]+)"', text))
    assert len(used) > 10
    assert used <= known


def test_a_full_file_is_set_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    writer = FileExporter(path, most_bytes=100)
    for number in range(5):
        writer._append(f"{number}".encode() * 39 + b"\n")
    assert path.read_text().splitlines() == ["4" * 39]
    assert Path(f"{path}.1").read_text().splitlines() == ["2" * 39, "3" * 39]
    assert path.stat().st_mode & 0o077 == 0


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    writers = [FileExporter(path, most_bytes=4000) for _ in range(4)]

    def write(writer: FileExporter) -> None:
        for _ in range(40):
            writer._append(b"x" * 9 + b"\n")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == ("x" * 9 + "\n") * 160


def test_a_collector_is_sent_the_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, str | None, ExportTraceServiceRequest]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, self.headers["x-team"], ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(export, "EVERY_SECONDS", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=secret")
    try:
        context = RequestContext("r1", trace=Traced(PARENT, f"http://127.0.0.1:{server.server_port}"))
        with step(context, "route"):
            pass
        until = time.monotonic() + 10
        while not received and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        server.shutdown()
    path, team, request = received[0]
    span = request.resource_spans[0].scope_spans[0].spans[0]
    assert (path, team, span.name) == ("/v1/traces", "secret", "route")
    assert span.trace_id.hex() == "a" * 32 and span.parent_span_id.hex() == "b" * 16
