"""The processes of an installation, found by the mark in their environment, whatever became of their
parents."""

from __future__ import annotations

import os
import time

import psutil

from configs.home import Home
from groupqwen.stack.settings import MARK, Settings


def marked(settings: Settings) -> list[psutil.Process]:
    """Every process that this installation started, without the one that asks."""
    return started_from(settings.home)


def started_from(home: Home) -> list[psutil.Process]:
    """Every process that was started from this home, without the one that asks.

    Some of Ray's rename themselves, which can overwrite their environment; they are found as descendants.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home.root):
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    found.pop(os.getpid(), None)
    return list(found.values())


def orphaned_agents(settings: Settings) -> list[psutil.Process]:
    """Ray's agents on our ports whose raylet is gone: renamed, with no parent of ours, they bear no mark."""
    ports = set(settings.ports.model_dump().values())
    found = []
    try:
        for connection in psutil.net_connections("tcp"):
            port = connection.laddr.port if connection.laddr else 0
            if connection.status == psutil.CONN_LISTEN and port in ports and connection.pid:
                process = psutil.Process(connection.pid)
                parent = process.parent()
                orphan = parent is None or parent.name() != "raylet"
                if orphan and " ".join(process.cmdline()).startswith("ray::"):
                    found.append(process)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return found
    return found


def end(processes: list[psutil.Process], patience: float = 10.0) -> None:
    """Ask each to end, and make those that do not."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, stubborn = psutil.wait_procs(processes, timeout=patience)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(stubborn, timeout=5)


def wait_until(condition: object, seconds: float, step: float = 0.2) -> bool:
    """Poll `condition` (a callable) until it holds or the time is over."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(step)
    return bool(condition())
