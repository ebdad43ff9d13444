"""What the endpoint says in all its moods. (The real one: tests/integration/test_top.py.)"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from groupqwen.top.command import Looker, after_key
from groupqwen.top.frame import Frame
from groupqwen.top.history import History
from groupqwen.top.sources import Lost, Refused, Sources
from groupqwen.top.view import ORDERS, Screen
from tests.integration.conftest import wait_for

ANSWERS: dict[str, tuple[int, Any]] = {
    "/health": (200, {"status": "ok", "parts": {"cache": {"ok": True}, "ledger": {"ok": True}}}),
    "/models": (200, {"data": [{"id": "auto"}, {"id": "small", "status": {"state": "awake"}}]}),
    "/metrics": (200, "# TYPE ray_groupqwen_n_total counter\nray_groupqwen_n_total 1.0\n"),
    "/cache/stats": (200, {"entries": 3}),
    "/usage?by=day&days=1": (200, {"rows": [{"cost_usd": 0.25, "saved_usd": 0.5}]}),
    "/rollout": (403, {"error": {"message": "no"}}),
}


class Endpoint:
    """What it answers may be changed at any time."""

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = told.answers.get(self.path.removeprefix("/v1"), (404, ""))
                text = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Tests are read, not this."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()
    yield one
    one.close()


def test_all_that_it_says_is_read(endpoint: Endpoint) -> None:
    read = Sources(endpoint.url + "/", "gq-key").read()
    assert (read.health["status"], read.sees_all, read.canary) == ("ok", False, None)
    assert read.models is not None and [model["id"] for model in read.models] == ["small"]
    assert read.metrics == ({("groupqwen_n_total", frozenset()): 1.0}, {})
    assert (read.cache, read.today) == ({"entries": 3}, {"cost_usd": 0.25, "saved_usd": 0.5})
    endpoint.answers["/rollout"] = (200, {"variants": ["small"]})
    again = Sources(endpoint.url, "gq-key").read()
    assert (again.sees_all, again.canary) == (True, {"variants": ["small"]})


@pytest.mark.parametrize("path", ["/models", "/metrics", "/cache/stats", "/usage?by=day&days=1", "/rollout"])
@pytest.mark.parametrize("answer", [(503, {"error": {}}), (404, ""), (429, "busy"), (200, "\x00{nonsense")])
def test_a_part_that_is_not_to_be_had_is_left_out(endpoint: Endpoint, path: str, answer: tuple[int, Any]) -> None:
    endpoint.answers[path] = answer
    sources, history = Sources(endpoint.url, "gq-key"), History(endpoint.url, 60.0)
    history.add(sources.read())
    frame = history.frame()
    assert frame.status == "ok"
    assert (frame.cost_today_usd is None) == ("usage" in path)
    assert (frame.variants == ()) == (path == "/models")


def test_nobody_having_asked_today_has_cost_nothing(endpoint: Endpoint) -> None:
    endpoint.answers["/usage?by=day&days=1"] = (200, {"rows": []})
    history = History(endpoint.url, 60.0)
    history.add(Sources(endpoint.url, "gq-key").read())
    assert history.frame().cost_today_usd == 0.0


@pytest.mark.parametrize("path", ["/models", "/metrics", "/cache/stats"])
def test_a_key_that_is_refused_is_told_in_the_words_of_the_endpoint(endpoint: Endpoint, path: str) -> None:
    endpoint.answers[path] = (401, {"error": {"message": "No valid API key."}})
    with pytest.raises(Refused, match=r"^No valid API key\.$"):
        Sources(endpoint.url, "gq-key").read()


def test_what_is_for_admins_is_left_out_for_others_and_a_key_that_may_not_ask_is_refused(
    endpoint: Endpoint,
) -> None:
    endpoint.answers["/metrics"] = (403, {"error": {"message": "This needs a key with the scope 'admin'."}})
    assert Sources(endpoint.url, "gq-key").read().metrics is None
    endpoint.answers["/models"] = (403, "<html>")
    with pytest.raises(Refused, match="403"):
        Sources(endpoint.url, "gq-key").read()


@pytest.mark.parametrize("answer", [(503, {"error": {"message": "no Gateway"}}), (200, "<html>"), (200, [])])
def test_an_endpoint_without_health_is_lost(endpoint: Endpoint, answer: tuple[int, Any]) -> None:
    endpoint.answers["/health"] = answer
    with pytest.raises(Lost):
        Sources(endpoint.url, "gq-key").read()


def test_a_group_that_is_down_is_not_lost(endpoint: Endpoint) -> None:
    endpoint.answers["/health"] = (503, {"status": "down", "parts": None})
    assert Sources(endpoint.url, "gq-key").read().health["status"] == "down"


def test_nobody_there_is_lost() -> None:
    with pytest.raises(Lost, match="does not answer"):
        Sources("http://127.0.0.1:9/v1", "gq-key").read()


def test_it_looks_again_until_the_endpoint_is_back(endpoint: Endpoint) -> None:
    history = History(endpoint.url, 60.0)
    sources = Sources(endpoint.url, "gq-key")
    history.add(sources.read())
    looker = Looker(sources.read, 0.02)

    def told() -> str | None:
        looker.news(history)
        return looker.problem

    looker.start()
    try:
        wait_for(lambda: looker.news(history) and told() is None, 10, "it does not look")
        endpoint.answers["/health"] = (503, "")
        wait_for(lambda: "lost the endpoint, trying again" in (told() or ""), 10, "the loss is not told")
        assert history.frame().status == "ok", "what was last seen stays"
        endpoint.answers["/health"] = ANSWERS["/health"]
        wait_for(lambda: told() is None, 10, "it does not come back")
        endpoint.answers["/models"] = (401, {"error": {"message": "revoked"}})
        wait_for(lambda: "the key is refused: revoked, trying" in (told() or ""), 10, "the refusal is not told")
        endpoint.answers["/models"] = (200, {"no": "data"})
        wait_for(lambda: "lost the endpoint" in (told() or ""), 10, "it stands still")
    finally:
        looker.stop()


def test_keys_change_the_screen() -> None:
    screen = Screen(Frame("http://here/v1", "ok"), keys=True, problem="lost")
    seen = []
    for _ in ORDERS:
        screen = after_key(screen, "s")
        seen.append(screen.order)
    assert sorted(seen) == sorted(ORDERS) and screen.order == "profile"
    paused = after_key(screen, "p")
    assert paused.paused and paused.problem == "lost"
    assert not after_key(paused, "p").paused
    assert after_key(screen, "x") == screen
