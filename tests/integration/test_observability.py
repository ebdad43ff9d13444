"""Spans and logs of a running group: one tree for each request, and no word of anybody's in any log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groupqwen.log_files import lines_of_node, nodes, session_logs
from groupqwen.stack.deploy import http
from tests.integration.conftest import SMALL, Stack, wait_for

CANARY = "c4n4ry-w0rd"


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Iterator[Stack]:
    """The stack, traced and with all that it logs at its most talkative; nothing is restarted for it."""
    (stack.settings.home.logs / "traces.jsonl").unlink(missing_ok=True)
    before = {process.pid for process in stack.processes("ServeReplica")}
    done = stack.run_cli("deploy", "--trace", "file", "--log-level", "debug")
    assert done.returncode == 0, done.stdout + done.stderr
    yield stack
    done = stack.run_cli("deploy", "--trace", "off", "--log-level", "warning")
    assert done.returncode == 0, done.stdout + done.stderr
    stack.ask("Who is traced now?", model=SMALL, max_tokens=2)
    assert {process.pid for process in stack.processes("ServeReplica")} == before


def spans_of(stack: Stack, request_id: str, count: int) -> list[dict[str, Any]]:
    """The spans of one request, once so many are there."""
    path = stack.settings.home.logs / "traces.jsonl"
    found: list[dict[str, Any]] = []

    def there() -> bool:
        nonlocal found
        lines = path.read_text().splitlines() if path.exists() else []
        spans = [json.loads(line) for line in lines]
        found = [span for span in spans if span["attributes"]["groupqwen.request_id"] == request_id]
        return len(found) >= count

    wait_for(there, 60, lambda: f"{len(found)} spans: {[span['name'] for span in found]}")
    return found


def test_a_streamed_request_is_one_tree_of_spans(watched: Stack) -> None:
    client_trace, client_span = "ab" * 16, "cd" * 8
    body = {"model": SMALL, "messages": [{"role": "user", "content": f"Say {CANARY}"}], "max_tokens": 6}
    headers = {"traceparent": f"00-{client_trace}-{client_span}-00", "cache-control": "no-cache"}
    answer = watched.post("/chat/completions", {**body, "stream": True}, **headers)
    assert answer.text.rstrip().endswith("[DONE]")
    spans = spans_of(watched, answer.headers["x-request-id"], 11)
    names = {span["context"]["span_id"]: span["name"] for span in spans} | {f"0x{client_span}": "the client"}
    above = sorted((span["name"], names[span["parent_id"]]) for span in spans)
    assert above == sorted(
        [
            ("chat", "the client"),
            ("route", "chat"),
            ("cache exact", "route"),
            ("cache similar", "route"),
            ("classify", "route"),
            ("decide", "route"),
            (f"ask {SMALL}", "route"),
            (f"chat {SMALL}", f"ask {SMALL}"),
            *((part, f"chat {SMALL}") for part in ("queue", "prefill", "decode")),
        ]
    )
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{client_trace}"}
    told = next(span["attributes"] for span in spans if span["name"] == "chat")
    assert told["gen_ai.request.model"] == told["groupqwen.variant"] == SMALL
    assert told["groupqwen.cache"] == "miss" and told["gen_ai.usage.output_tokens"] == 6


def message(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 2, **fields}


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "a wrong field": (message(CANARY, temperature=CANARY), 400),
    "a wrong role": ({"messages": [{"role": CANARY, "content": CANARY}]}, 400),
    "too long a context": (message(f"{CANARY} " * 3000), 400),
    "half a character": (message(f"{CANARY}\ud800"), 200),
    "an image": (message([{"type": "image_url", "image_url": {"url": CANARY}}]), 400),
    "an unknown model": (message("hi", model=CANARY), 404),
    "an unknown template's field": (message("hi", chat_template_kwargs={CANARY: CANARY}), 200),
    "a pattern that is none": (message("hi", response_format=schema(type="string", pattern=f"({CANARY}")), 400),
    "a reference to nothing": (message("hi", response_format=schema(**{"$ref": f"#/{CANARY}"})), 400),
    # llama.cpp prints this one, past its own log.
    "a name that no grammar takes": (
        message("hi", response_format=schema(type="object", properties={f'{CANARY}"': {"enum": ["\0"]}})),
        400,
    ),
    "a call that is none": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": CANARY}]}], "max_tokens": 2},
        200,
    ),
}


def test_no_word_and_no_secret_is_in_any_log_or_report(watched: Stack) -> None:
    assert watched.ask(f"Repeat: {CANARY}", model=SMALL).status_code == 200
    assert watched.ask(f"Repeat: {CANARY}").status_code == 200
    statuses = {what: _ask(watched, json.dumps({"model": SMALL, **body})) for what, (body, _) in REFUSED.items()}
    assert statuses == {what: status for what, (_, status) in REFUSED.items()}
    assert _ask(watched, f'{{"messages": [{{"role": "user", "content": "{CANARY}"') == 400
    assert watched.get(f"/models/{CANARY}").status_code == 404
    stranger = {"authorization": f"Bearer gq-{CANARY}"}
    assert http().get(f"{watched.url}/models", headers=stranger).status_code == 401
    secrets = {
        "a word of a prompt": CANARY,
        "the key": watched.key,
        "Redis' password": watched.credentials.redis_password,
        "PostgreSQL's password": watched.credentials.postgres_password,
        "Ray's token": watched.credentials.ray_token,
    }
    time.sleep(1.5)  # Spans are written once a second.
    folders = [watched.settings.home.logs, *session_logs(watched.settings.home)]
    assert len(folders) > 1
    texts = {str(path): path.read_text("utf-8", "replace") for path in _files(folders)} | _reports(watched)
    assert any("refused: ChatError" in text for text in texts.values()), "these are not the logs"
    found = [
        f"{what} in {name}" for name, text in texts.items() for what, secret in secrets.items() if secret in text
    ]
    assert found == []


def _ask(stack: Stack, body: str) -> int:
    headers = {**stack.headers, "content-type": "application/json", "cache-control": "no-store"}
    return http().post(f"{stack.url}/chat/completions", content=body, headers=headers, timeout=120).status_code


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def _reports(stack: Stack) -> dict[str, str]:
    """What the API, Serve and Ray's dashboard say of themselves."""
    token = {"Authorization": f"Bearer {stack.credentials.ray_token}"}
    lists = ("actors", "nodes", "workers", "jobs", "runtime_envs", "tasks", "objects", "placement_groups")
    paths = [f"/api/v0/{what}?detail=1&limit=1000" for what in lists]
    paths += ["/api/serve/applications/", "/api/cluster_status", "/logical/actors", "/api/jobs/", "/api/version"]
    said = {path: http().get(stack.settings.dashboard + path, headers=token, timeout=30) for path in paths}
    assert {response.status_code for response in said.values()} == {200}
    own = {path: stack.get(path).text for path in ("/health", "/models", "/metrics")}
    return own | {path: response.text for path, response in said.items()}


def test_the_command_finds_the_lines_of_one_request(watched: Stack) -> None:
    refused = watched.ask(f"{CANARY} " * 3000, model=SMALL)
    assert refused.status_code == 400
    identity = refused.headers["x-request-id"]
    done = watched.run_cli("logs", "--request", identity, COLUMNS="300")
    said = done.stdout.splitlines()
    for part in ("Gateway#", "Router#", f"{SMALL}#"):
        assert any(part in line for line in said), done.stdout + done.stderr
    assert sum("refused: ChatError: 400 context_length_exceeded" in line for line in said) == 2
    assert all(identity in line for line in said)
    # Another machine's files come by way of Ray's dashboard, which tells of the head's as well.
    (head,) = nodes(watched.settings, watched.credentials)
    elsewhere = [
        line for line in lines_of_node(watched.settings, watched.credentials, head) if line.concerns(identity)
    ]
    assert {line.part.partition("#")[0] for line in elsewhere} >= {"groupqwen_Gateway", "groupqwen_Router"}
