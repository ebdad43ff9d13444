"""Starts and stops the servers that are compared, and the venv that the peers live in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.load import Target
from benchmarks.machine import console

ROOT = Path(__file__).parent.parent
PEERS = Path(os.environ.get("GROUPQWEN_PEERS_VENV") or ROOT / ".venv-peers")


def peers_python() -> str:
    """The peers' Python; its venv is made at the first use (minutes)."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        console.print(f"Installing the peers into {PEERS.name} (minutes, once) …")
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        requirements = str(ROOT / "benchmarks" / "peers.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", requirements], check=True)
    return str(python)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    target: Target
    process: psutil.Process

    def memory_mb(self) -> int:
        """Resident memory of it and its children, MiB."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) // 2**20


@contextmanager
def server(
    name: str, command: list[str], port: int, model: str, environment: dict[str, str], key: str = "none"
) -> Iterator[Running]:
    """Run a server until the block ends. Raises RuntimeError with the end of its log if it does not start."""
    log = Path(f"/tmp/groupqwen-benchmark-{os.getpid()}-{name.replace(' ', '-')}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        until = time.monotonic() + 180
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} did not start:\n" + log.read_text("utf-8", "replace")[-1500:])
            if _answers(port, model, key):
                break
            time.sleep(0.3)
        yield Running(Target(name, f"http://127.0.0.1:{port}/v1", model, key), psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.unlink(missing_ok=True)


def _answers(port: int, model: str, key: str) -> bool:
    """Whether a question is answered: some servers list their models before they can."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
        return httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


def ours(
    model: Path, threads: int, parallel: int, context: int
) -> tuple[str, list[str], int, str, dict[str, str]]:
    """Arguments of `server` for our engine behind a bare uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_server", "--model", str(model), "--port", str(port)]
    command += ["--threads", str(threads), "--parallel", str(parallel), "--context", str(context)]
    return "GroupQwen", command, port, "bare", {}


def llama_cpp_server(model: Path, threads: int, context: int) -> tuple[str, list[str], int, str, dict[str, str]]:
    """Arguments of `server` for llama-cpp-python's own, which answers one request at a time."""
    port = free_port()
    command = [peers_python(), "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
    command += ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--n_ctx", str(context)]
    # By default a new request interrupts the one that runs: answers would be cut.
    command += ["--interrupt_requests", "false", "--flash_attn", "true", "--model_alias", "peer"]
    return "llama_cpp.server", command, port, "peer", {}


def xllamacpp_server(
    model: Path, threads: int, parallel: int, context: int
) -> tuple[str, list[str], int, str, dict[str, str]]:
    """Arguments of `server` for xllamacpp's, which is llama.cpp's C++ server in a Python process."""
    port = free_port()
    script = str(ROOT / "benchmarks" / "xllamacpp_server.py")
    command = [peers_python(), script, str(model), str(port), str(threads), str(parallel), str(context)]
    return "xllamacpp", command, port, "peer", {}
