"""The head's script, with a `groupqwen` and an endpoint that do as they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HEAD = Path(__file__).parents[2] / "docker" / "head.sh"
UP = "up --profile cpu-qwen3 --listen 0.0.0.0 --no-ask"
KEY = "gq-secret"


def test_the_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n", str(HEAD)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(HEAD, os.X_OK)


class Endpoint:
    """What answers `/v1/health` with `status`."""

    def __init__(self) -> None:
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status if self.path == "/v1/health" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = str(self._server.server_port)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    here = Endpoint()
    yield here
    here.close()


class Head:
    """head.sh with a `groupqwen` that writes down what it is asked, and does `up` as told."""

    def __init__(self, tmp_path: Path, port: str, up: str = "exit 0", patience: int = 30) -> None:
        self._said = tmp_path / "said"
        self._said.touch()
        self.log = ""
        command = tmp_path / "groupqwen"
        command.write_text(
            f'#!/bin/sh\necho "$@" >> {self._said}\n[ "$1" = down ] && exit 0\necho "API key {KEY}"\n{up}\n'
        )
        command.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GROUPQWEN_PROFILE": "cpu-qwen3",
            "HTTP_PORT": port,
            "PATIENCE_SECONDS": str(patience),
            "PAUSE_SECONDS": "0.05",
        }
        self.process = subprocess.Popen(
            [str(HEAD)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def until(self, line: str) -> None:
        assert self.process.stdout is not None
        for said in self.process.stdout:
            self.log += said
            if said.strip() == line:
                return
        raise AssertionError(f"it ended without saying {line!r}: {self.log}")

    def end(self) -> int:
        self.log += self.process.communicate(timeout=20)[0]
        assert KEY not in self.log, "the key is in the log"
        return self.process.returncode

    @property
    def asked(self) -> list[str]:
        return self._said.read_text().splitlines()


def health(port: str) -> int:
    return subprocess.run([str(HEAD), "health"], env={**os.environ, "HTTP_PORT": port}, check=False).returncode


def test_health_is_that_a_question_would_be_answered(endpoint: Endpoint) -> None:
    assert health(endpoint.port) == 0
    endpoint.status = 503
    assert health(endpoint.port) == 1
    endpoint.close()
    assert health(endpoint.port) == 1


def test_sigterm_takes_it_down_in_order(tmp_path: Path, endpoint: Endpoint) -> None:
    head = Head(tmp_path, endpoint.port)
    head.until("head: ready")
    head.process.send_signal(signal.SIGTERM)
    assert head.end() == 0
    assert head.asked == [UP, "down"]


def test_sigterm_is_heard_while_it_starts(tmp_path: Path, endpoint: Endpoint) -> None:
    head = Head(tmp_path, endpoint.port, up=f"touch {tmp_path}/started; exec sleep 60")
    while not (tmp_path / "started").exists():
        assert head.process.poll() is None
        time.sleep(0.01)
    head.process.send_signal(signal.SIGTERM)
    assert head.end() == 0
    assert head.asked == [UP, "down"]


def test_a_start_that_fails_ends_the_container(tmp_path: Path, endpoint: Endpoint) -> None:
    head = Head(tmp_path, endpoint.port, up="echo no such profile >&2; exit 1")
    assert head.end() == 1
    assert head.asked == [UP, "down"]
    assert "no such profile" in head.log


def test_an_endpoint_that_is_gone_for_good_ends_the_container(tmp_path: Path, endpoint: Endpoint) -> None:
    head = Head(tmp_path, endpoint.port, patience=1)
    endpoint.status = 503
    head.until("head: ready")
    assert head.end() == 1
    assert head.asked == [UP, "down"]
