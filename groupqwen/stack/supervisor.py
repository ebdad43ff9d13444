"""supervisord keeps Redis, PostgreSQL and Ray alive; this writes its configuration and talks to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from configs.placement import HEAD, PLENTY
from groupqwen.stack.credentials import Credentials, write_private
from groupqwen.stack.firewall import ray_ports
from groupqwen.stack.settings import LOOPBACK, Settings
from groupqwen.stack.sockets import socket_folder


@dataclass(frozen=True)
class Program:
    """One service. `user`: whom it runs as, where it is not whoever runs this."""

    name: str
    command: list[str]
    priority: int
    user: str | None = None
    stop_seconds: int = 20


class Supervisor:
    """One installation's supervisord, over its private socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = socket_folder(settings.home) / "supervisor.sock"
        self._config = settings.home.run / "supervisord.conf"

    @property
    def running(self) -> bool:
        """Whether it answers."""
        try:
            self._rpc().supervisor.getState()
        except (OSError, Fault):
            return False
        return True

    def start(self, programs: list[Program], credentials: Credentials) -> None:
        """Start supervisord as a daemon, with these programs."""
        write_private(self._config, self._text(programs))
        self._socket.unlink(missing_ok=True)
        environment = {**os.environ, **self._settings.environment(credentials)}
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)]
        subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True, text=True)

    def revive(self) -> None:
        """Start what has been given up, or is waited with after failures; leaves running programs alone."""
        programs: Any = self._rpc().supervisor.getAllProcessInfo()
        for program in programs:
            if program["statename"] in ("BACKOFF", "EXITED", "FATAL"):
                # One that is being started at this moment needs no help.
                with suppress(Fault):
                    self._rpc().supervisor.startProcess(program["name"], False)

    def shut_down(self) -> None:
        """Stop every program and supervisord itself; returns at once."""
        self._rpc().supervisor.shutdown()

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The end of a program's log."""
        try:
            text = (self._settings.home.logs / f"{name}.log").read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _rpc(self) -> ServerProxy:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        return ServerProxy("http://127.0.0.1", transport=transport)

    def _text(self, programs: list[Program]) -> str:
        home = self._settings.home
        parts = [
            f"""
[unix_http_server]
file = {self._socket}
chmod = 0700

[supervisord]
logfile = {home.logs}/supervisord.log
logfile_maxbytes = 5MB
umask = 077
pidfile = {home.run}/supervisord.pid
childlogdir = {home.logs}
{"user = root" if os.geteuid() == 0 else ""}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        ]
        for program in programs:
            command = " ".join(_quoted(word) for word in program.command)
            parts.append(
                f"""
[program:{program.name}]
command = {command}
priority = {program.priority}
autostart = true
autorestart = true
startsecs = 1
startretries = 100
stopwaitsecs = {program.stop_seconds}
stopasgroup = {"false" if program.name == "postgres" else "true"}
killasgroup = true
stopsignal = {"INT" if program.name == "postgres" else "TERM"}
redirect_stderr = true
stdout_logfile = {home.logs}/{program.name}.log
stdout_logfile_maxbytes = 5MB
stdout_logfile_backups = 2
{f"user = {program.user}" if program.user else ""}
"""
            )
        return "\n".join(parts).replace("%", "%%")


def _quoted(word: str) -> str:
    if word and all(character.isalnum() or character in "/._-=:,+@" for character in word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def ray_program(settings: Settings) -> Program:
    """The Ray head, its dashboard on loopback whatever its address."""
    ports = settings.ports
    options = {
        "node-ip-address": settings.interface,
        "resources": json.dumps({HEAD: PLENTY}),
        "port": ports.gcs,
        "ray-client-server-port": ports.ray_client,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.agent,
        "metrics-export-port": ports.metrics,
        # On loopback workers take any free port: Ray's usual range would collide with shifted ports.
        **({"min-worker-port": 0, "max-worker-port": 0} if settings.interface == LOOPBACK else ray_ports(ports)),
        "object-store-memory": 200 * 2**20,
        "num-cpus": max(4, os.cpu_count() or 1),
        "include-dashboard": "true",
    }
    command = [
        sys.executable,
        "-m",
        "groupqwen.stack.ray_head",
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
    ]
    return Program(
        "ray",
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        priority=30,
        stop_seconds=60,
    )
