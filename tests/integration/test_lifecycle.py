"""Starting and securing: what `up` promises. (How it stops is in test_stopping.py.)"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
import redis

from groupqwen.stack.processes import marked
from tests.integration.conftest import ROOT, Stack, wait_for


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    pids = {process.pid for process in marked(stack.settings)}
    listening = [
        connection
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 10
    for connection in listening:
        address = connection.laddr.ip.removeprefix("::ffff:")
        assert address in ("127.0.0.1", "::1"), (psutil.Process(connection.pid).cmdline()[:2], connection.laddr)


def test_services_are_closed_to_others(stack: Stack) -> None:
    home = stack.settings.home
    url = stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"]
    assert redis.Redis.from_url(url).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=url.split("@")[1]).ping()
    for path in (home.credentials, home.keys, home.run / "ray-token", home.run / "redis.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (home.journal, home.logs, home.models, home.redis):
        assert not folder.stat().st_mode & 0o077 or folder.is_symlink(), folder
    # Under root the way to PostgreSQL's data must be passable, but never readable, for its own user.
    assert not home.root.stat().st_mode & 0o066
    assert not home.run.stat().st_mode & 0o066


def test_ray_wants_its_token(stack: Stack) -> None:
    url = f"{stack.settings.dashboard}/api/serve/applications/"
    assert httpx.get(url).status_code in (401, 403)
    token = {"Authorization": f"Bearer {stack.credentials.ray_token}"}
    assert httpx.get(url, headers=token).status_code == 200


def test_the_key_is_kept_hashed_only(stack: Stack) -> None:
    ring = stack.settings.home.keys.read_text()
    assert stack.key not in ring
    assert len(json.loads(ring)["keys"][0]["sha256"]) == 64
    # Beside it in the home: only in the owner's own credentials, never in logs or generated configuration.
    found = subprocess.run(
        [
            "grep",
            "-rlF",
            stack.key,
            str(stack.settings.home.root),
            "--exclude-dir=models",
            "--exclude-dir=postgres",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == [str(stack.settings.home.credentials)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as a user of its own")
def test_up_opens_the_way_to_the_data_again(stack: Stack) -> None:
    stack.settings.home.root.chmod(0o700)
    for server in stack.processes("postgres -D"):
        server.kill()
    wait_for(
        lambda: "Permission denied" in (stack.settings.home.logs / "postgres.log").read_text(), 60, "still open"
    )
    assert stack.up().returncode == 0
    stack.wait_until_well()


def test_up_twice_at_once_changes_nothing(stack: Stack) -> None:
    before = {process.pid for process in stack.processes("ServeReplica")}
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stack.up(), range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "waiting for it" in first.stdout + second.stdout
    assert {process.pid for process in stack.processes("ServeReplica")} == before


def test_the_command_shows_status_and_chats(stack: Stack) -> None:
    status = stack.run_cli("status")
    assert status.returncode == 0, status.stderr
    assert "GroupQwen: ok" in status.stdout
    assert stack.url in status.stdout
    # (A number of its own: a run within the hour before has left its answer in the cache.)
    chat = stack.run_cli("chat", "-m", "smollm2-135m", "Say", f"hello, {time.time_ns()}.")
    assert chat.returncode == 0, chat.stderr
    assert "was asked for" in chat.stdout
    unknown = stack.run_cli("chat", "-m", "gpt-9", "hello")
    assert unknown.returncode == 1
    assert "does not exist" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--profile", "nope"], "there is no profile"),
        (["plan", "--profile", "nope"], "there is no profile"),
        (["status"], "run `bash scripts/up.sh`"),
    ],
)
def test_problems_are_one_line_that_says_what_to_do(stack: Stack, tmp_path, arguments, says) -> None:  # type: ignore[no-untyped-def]
    done = stack.run_cli(*arguments, GROUPQWEN_HOME=str(tmp_path / "new"), COLUMNS="400")
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_named_with_a_way_out(stack: Stack, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 8000 + 3000)):
        done = stack.run_cli("up", "--port-offset", "3000", GROUPQWEN_HOME=str(tmp_path / "new"), COLUMNS="400")
    assert done.returncode == 1
    assert "port 11000 (http) is taken by" in done.stderr
    assert "--port-offset" in done.stderr


def test_commands_that_need_nothing_running() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "groupqwen.cli", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "smollm2-135m" in run("plan")
    assert "qwen3-14b" in run("plan", "--profile", "rtx5090")
    assert "profiles" in run("models", "list").lower()
    assert run("version").strip()
    for command in ("up", "down", "status", "chat", "plan", "models"):
        assert "Usage" in run(command, "--help")
