"""`groupqwen top` on the real group: printed, as JSON, and live in a terminal that loses its endpoint."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import socket
import socketserver
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.conftest import LARGE, MIDDLE, ROOT, SMALL, Stack, wait_for

SCREEN = (80, 24)
KEY = "GROUPQWEN_CLIENT_KEY"


def looked(stack: Stack, *arguments: str) -> dict[str, Any]:
    done = stack.run_cli("top", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_it_shows_what_was_asked(stack: Stack) -> None:
    """In the means since the start, which a person sees at once."""
    stack.wait_until_well()
    stack.ask("Say hi.", model=SMALL, max_tokens=8)

    def kept() -> bool:
        asked = "What is the capital of France? Answer in one sentence."
        return stack.ask(asked, model=SMALL, max_tokens=60, cache="").headers["x-groupqwen-cache"] == "exact"

    wait_for(kept, 60, "what is asked twice does not come from the cache")
    found: dict[str, Any] = {}

    def counted() -> bool:
        found.update(looked(stack))
        return bool(found["hit_rate"]) and found["variants"][0]["answer_p95"] is not None

    wait_for(counted, 60, lambda: f"it does not show: {found}")
    assert (found["status"], found["window_seconds"]) == ("ok", None)
    assert found["up_seconds"] > 0 and found["requests_per_second"] > 0 and found["tokens_per_second"] > 0
    assert found["cost_of_all_keys"] is True and found["cost_today_usd"] > 0
    small, middle, large = found["variants"]
    assert [one["name"] for one in (small, middle, large)] == [SMALL, MIDDLE, LARGE]
    assert (small["state"], small["node"]) == ("awake", "head")
    assert small["active"] >= 0 and small["waiting"] >= 0
    assert small["slots"] > 1 and small["memory_mb"] > 100 and small["requests_per_minute"] > 0
    assert 0 < small["first_token_p50"] <= small["first_token_p95"] <= small["answer_p95"] + 1
    [head] = found["nodes"]
    assert head["used_mb"] == sum(one["declared_mb"] for one in found["variants"]) <= head["budget_mb"]
    assert found["cache"]["ok"] and found["cache"]["entries"] >= 1 and found["cache"]["lookups"]["exact"] >= 1
    assert found["ledger"]["ok"] is True

    printed = stack.run_cli("top", "--once", COLUMNS="80")
    assert printed.returncode == 0, printed.stderr
    assert "\x1b" not in printed.stdout, "into a pipe without colour"
    for said in (stack.url, "ok", SMALL, LARGE, "means since the start", "today", "cache", "ledger"):
        assert said in printed.stdout
    assert max(map(len, printed.stdout.splitlines())) <= 80
    assert stack.run_cli("top", COLUMNS="80").stdout.splitlines()[3:5] == printed.stdout.splitlines()[3:5]


def test_a_window_is_of_what_happens_in_it(stack: Stack) -> None:
    enough = threading.Event()

    def ask_on() -> None:
        while not enough.wait(0.5):
            stack.ask("Count.", model=MIDDLE, max_tokens=8)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        seen = looked(stack, "--window", "8", "--interval", "1")
    finally:
        enough.set()
        asking.join()
    assert 7 < seen["window_seconds"] < 30
    middle = next(one for one in seen["variants"] if one["name"] == MIDDLE)
    assert middle["requests_per_minute"] > 0 and middle["tokens_per_second"] > 0
    assert seen["cache"]["lookups"]["bypass"] >= 1
    assert len(seen["requests"]) == 20


def test_a_key_for_chats_sees_how_variants_are_and_its_own_cost(stack: Stack) -> None:
    made = stack.post("/keys", {"name": "of a test"}).json()
    try:
        wait_for(
            lambda: (
                stack.run_cli("top", "--json", "--endpoint", stack.url, **{KEY: made["secret"]}).returncode == 0
            ),
            10,
            "the key does not count",
        )
        done = stack.run_cli("top", "--json", "--endpoint", stack.url, **{KEY: made["secret"]})
        seen = json.loads(done.stdout)
        assert (seen["cost_of_all_keys"], seen["cost_today_usd"]) == (False, 0.0)
        assert len(seen["variants"]) == 3
        assert seen["requests_per_second"] is None, "what everyone asks is for admins"
    finally:
        stack.run_cli("keys", "revoke", made["id"])


@pytest.mark.parametrize(
    ("endpoint", "environment", "line"),
    [
        (None, {KEY: "gq-wrong"}, r"groupqwen: http\S+ refuses the key: No valid API key\."),
        (None, {KEY: ""}, rf"groupqwen: which key for http\S+ Set {KEY}"),
        ("http://127.0.0.1:9/v1", {KEY: "gq-x"}, r"groupqwen: http://127\.0\.0\.1:9/v1 does not answer"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    stack: Stack, endpoint: str | None, environment: dict[str, str], line: str
) -> None:
    done = stack.run_cli("top", "--endpoint", endpoint or stack.url, COLUMNS="200", **environment)
    assert done.returncode == 1 and done.stdout == ""
    assert re.match(line, done.stderr) and len(done.stderr.strip().splitlines()) == 1, done.stderr


class Relay:
    """Between a client and the endpoint; it can be taken away."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self.port = 0
        self._server: socketserver.ThreadingTCPServer | None = None

    def open(self) -> None:
        upstream = self._upstream

        class Pipe(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", upstream)) as there:
                    back = threading.Thread(target=copy, args=(there, self.request), daemon=True)
                    back.start()
                    copy(self.request, there)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self.port), Pipe)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Terminal:
    """A command in a terminal of its own, and what it has drawn."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.master, slave = pty.openpty()
        columns, rows = SCREEN
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment},
            cwd=ROOT,
            start_new_session=True,
        )
        self.drawn = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self.drawn += os.read(self.master, 65536)
            except OSError:
                return

    def screen(self) -> str:
        """What was drawn last, without styles. Every frame begins at the top left."""
        frames = self.drawn.decode(errors="replace").split("\x1b[H")
        # (The last one may be half drawn.)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames[-2] if len(frames) > 1 else "")

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())


@contextmanager
def live(stack: Stack, relay: Relay, **environment: str) -> Iterator[Terminal]:
    relay.open()
    url = f"http://127.0.0.1:{relay.port}/v1"
    command = [sys.executable, "-m", "groupqwen.cli", "top", "--endpoint", url, "--interval", "0.5"]
    terminal = Terminal(command, **{KEY: stack.key, **environment})
    try:
        yield terminal
    finally:
        relay.close()
        terminal.process.kill()
        terminal.process.wait()
        for end in (terminal.master, terminal.slave):
            os.close(end)


def shows(terminal: Terminal, text: str, seconds: float = 30) -> None:
    wait_for(lambda: text in terminal.screen(), seconds, lambda: f"no {text!r}:\n{terminal.screen()}")


def test_live_in_a_terminal(stack: Stack) -> None:
    relay = Relay(stack.settings.ports.http)
    with live(stack, relay) as terminal:
        shows(terminal, SMALL)
        shows(terminal, "of the last")
        lines = terminal.screen().splitlines()
        assert len(lines) <= SCREEN[1] and max(map(len, lines)) <= SCREEN[0]
        terminal.press("s")
        shows(terminal, "by requests")
        terminal.press("p")
        shows(terminal, "(paused)")
        terminal.press("p")
        shows(terminal, "p pauses")
        relay.close()
        shows(terminal, "lost the endpoint, trying again")
        assert SMALL in terminal.screen(), "what was last seen stays"
        relay.open()
        wait_for(lambda: "lost" not in terminal.screen(), 60, "it does not come back")
        shows(terminal, SMALL)
        terminal.press("\x1b[Q")  # An arrow or the like is none of its keys.
        time.sleep(0.5)
        assert terminal.process.poll() is None
        terminal.press("q")
        assert terminal.process.wait(10) == 0
        assert b"\x1b[?1049h" in terminal.drawn
        wait_for(lambda: b"\x1b[?1049l" in terminal.drawn, 20, "the screen of before does not come back")
        assert termios.tcgetattr(terminal.slave)[3] == terminal.modes[3], "the keyboard is as before"


def test_live_without_colour_and_ended_with_ctrl_c(stack: Stack) -> None:
    relay = Relay(stack.settings.ports.http)
    with live(stack, relay, NO_COLOR="1") as terminal:
        shows(terminal, SMALL)
        coloured = rb"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|4[0-9]|9[0-7])[;m]"
        assert not re.search(coloured, terminal.drawn), "NO_COLOR"
        os.killpg(terminal.process.pid, 2)
        assert terminal.process.wait(10) == 0
        wait_for(lambda: b"\x1b[?1049l" in terminal.drawn, 20, "the screen of before does not come back")
