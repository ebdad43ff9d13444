"""The log files of an installation, on this machine and on those that have joined it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from configs.home import Home
from groupqwen.log_lines import Line, read_lines
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.deploy import http
from groupqwen.stack.processes import started_from
from groupqwen.stack.settings import Settings

NEWEST_BYTES = 20 * 2**20
"""Of each file: what is older is not read."""

OF_RAY = ("serve/*.log*", "*.log*", "*.out*", "*.err*")
LONGEST_LISTING_SECONDS = 15
MOST_LINES = "100000"
"""Of each file of another machine."""


@dataclass
class LogFile:
    """One that is read on where it was left."""

    path: Path
    position: int | None = None
    _left: str = field(default="", repr=False)

    def lines(self) -> Iterator[Line]:
        """What has come since the last look; at the first, what is there."""
        try:
            size = self.path.stat().st_size
            if self.position is None:
                self.position = max(0, size - NEWEST_BYTES)
            if size < self.position:
                self.position, self._left = 0, ""  # It was set aside and begun anew.
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read()
        except OSError:
            return
        self.position += len(data)
        whole, _, self._left = (self._left + data.decode("utf-8", "replace")).rpartition("\n")
        yield from read_lines(whole.split("\n"), self.path.stem)


def session_logs(home: Home) -> list[Path]:
    """The folders into which the Ray that runs from this home writes."""
    found = set()
    for process in started_from(home):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        sockets = [word.partition("=")[2] for word in words if word.startswith("--raylet_socket_name=")]
        found |= {Path(socket).parent.parent / "logs" for socket in sockets}
    return sorted(found)


def local_files(home: Home) -> list[Path]:
    """Every log file here, rotated ones too."""
    found = [*home.logs.glob("*.log*")]
    for folder in session_logs(home):
        found += [path for pattern in OF_RAY for path in folder.glob(pattern)]
    return sorted({path for path in found if path.is_file() and os.access(path, os.R_OK)})


def lines_of_nodes(settings: Settings, credentials: Credentials) -> Iterator[Line]:
    """What Serve's parts have written on other machines of the group."""
    for node in nodes(settings, credentials):
        if node.get("state") == "ALIVE" and node.get("node_ip") != settings.interface:
            yield from lines_of_node(settings, credentials, node)


def nodes(settings: Settings, credentials: Credentials) -> list[dict[str, Any]]:
    """Ray's nodes, as its dashboard tells of them; none while it does not answer."""
    return list(_asked(settings, credentials, "nodes", {}))


def lines_of_node(settings: Settings, credentials: Credentials, node: Mapping[str, Any]) -> Iterator[Line]:
    """What Serve's parts have written on a node, by way of Ray's dashboard."""
    where = {"node_id": str(node["node_id"])}
    listed = dict(_asked(settings, credentials, "logs", {**where, "glob": "serve/*.log"}))
    for name in sorted({str(name) for names in listed.values() for name in names}):
        text = _text(settings, credentials, {**where, "filename": name, "lines": MOST_LINES})
        yield from read_lines(text.split("\n"), f"{node['node_ip']}:{Path(name).stem}")


def _asked(settings: Settings, credentials: Credentials, what: str, parameters: dict[str, str]) -> Any:
    try:
        response = _get(settings, credentials, what, parameters)
        result = response.json()["data"]["result"]
        return result["result"] if isinstance(result, dict) and "result" in result else result
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []


def _text(settings: Settings, credentials: Credentials, parameters: dict[str, str]) -> str:
    try:
        response = _get(settings, credentials, "logs/file", parameters)
    except httpx.HTTPError:
        return ""
    return response.text if response.status_code == 200 else ""


def _get(settings: Settings, credentials: Credentials, what: str, parameters: dict[str, str]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {credentials.ray_token}"}
    url = f"{settings.dashboard}/api/v0/{what}"
    return http().get(url, params=parameters, headers=headers, timeout=LONGEST_LISTING_SECONDS)
