"""A machine joins a head as a Ray node, and stays joined: its side of `scripts/join.sh`.

Everything that can be wrong is looked at before, and said in one line. Ray's own process is started again
whenever it ends, because that is what it does after a sleep that was too long for the head.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from configs.catalog import load_catalog
from configs.fitting import fit, this_machine
from configs.home import Home, home
from configs.machine import memory_mb
from configs.placement import PLENTY, resource
from configs.planner import make_plan
from configs.profile import Ports, load_profile
from configs.routing import DeviceClass
from groupqwen.models import fetch_profile
from groupqwen.stack.checks import check_machine
from groupqwen.stack.credentials import write_private
from groupqwen.stack.firewall import firewall, ray_ports
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.processes import end, started_from
from groupqwen.stack.settings import LOOPBACK, node_environment

TOKEN_VARIABLE = "GROUPQWEN_JOIN_TOKEN"  # noqa: S105  # A name, and not in an argument: others read those.
LEAVE_SECONDS = 8.0
"""So long Ray may take to leave in order: its raylet waits for replicas that have nothing more to say."""
AGAIN_SECONDS = 3.0
REACH_SECONDS = 5.0
OBJECT_STORE_BYTES = 100 * 2**20


def join(head: str, device: str, profile_name: str, interface: str | None, console: Console) -> None:
    """Check, fetch the weights of this node's variants, and be a node of the head's cluster until interrupted.

    The first time the head's token is in `GROUPQWEN_JOIN_TOKEN`. Raises `StartProblem`, `ConfigError`,
    `DownloadError`.
    """
    here = home()
    catalog = load_catalog()
    profile = load_profile(profile_name, catalog)
    if device not in profile.nodes:
        known = ", ".join(profile.nodes) or "none"
        raise StartProblem(f"the profile {profile.name} has no node {device!r} (it has: {known})")
    # As the head chooses them: what a node serves is decided by the profile alone.
    profile, _ = fit(profile, catalog, this_machine())
    mine, catalog = profile.on(device), profile.serving(catalog)
    make_plan(mine, catalog, memory_mb())
    check_machine(mine, catalog)
    host, port = _address(head, profile.ports.gcs)
    interface = interface or own_address(host, port)
    here.make()
    lock = FileLock(str(here.run / "join.lock"))
    busy = StartProblem(
        f"something runs from {here.root} already: end it, or set GROUPQWEN_HOME to another folder"
    )
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise busy from None
    if started_from(here):
        raise busy
    _remember_token(here, os.environ.get(TOKEN_VARIABLE))
    environment = {**os.environ, **node_environment(here, interface)}
    environment.pop(TOKEN_VARIABLE, None)  # Ray reads it from the file; its workers need not have it.
    check_versions(head_versions(host, port, environment), f"{host}:{port}")
    if interface != LOOPBACK:
        console.print(firewall(here, profile.ports, interface, host))
    fetch_profile(mine, catalog, here, console)
    _stay(f"{host}:{port}", interface, device, profile.ports, environment, console)


def ray_command(address: str, interface: str, device: DeviceClass, ports: Ports) -> list[str]:
    """`ray start`, as a node on which nothing lands but what asks for it by name: it offers no CPU."""
    # On loopback, free ones: another node runs on this machine.
    alone = interface != LOOPBACK
    own = ray_ports(ports) if alone else {"min-worker-port": 0, "max-worker-port": 0}
    options = {
        "address": address,
        "node-ip-address": interface,
        "num-cpus": 0,
        "resources": json.dumps({resource(device): PLENTY, "metal" if sys.platform == "darwin" else device: 1}),
        "object-store-memory": OBJECT_STORE_BYTES,
        "dashboard-agent-listen-port": ports.agent if alone else _free_port(interface),
        "metrics-export-port": ports.metrics if alone else _free_port(interface),
        **own,
    }
    python = Path(sys.executable)
    if interface == LOOPBACK:
        start = [str(python), "-m", "groupqwen.loopback_node"]
    else:
        start = [str(python.parent / "ray"), "start"]
    return [*start, "--block", "--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]


def _stay(
    address: str,
    interface: str,
    device: DeviceClass,
    ports: Ports,
    environment: dict[str, str],
    console: Console,
) -> None:
    running: subprocess.Popen[bytes] | None = None

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, stop)
    try:
        while True:
            log = home().logs / "ray-node.log"
            with log.open("ab") as out:
                running = subprocess.Popen(
                    ray_command(address, interface, device, ports),
                    env=environment,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    umask=0o077,
                )
            console.print(f"Joined {address} as {device}, at {interface}. Ctrl-C leaves.")
            running.wait()
            console.print(f"Ray has ended here (status {running.returncode}; see {log}): joining again.")
            # Ray's own watchman may have gone without its children.
            end(started_from(home()))
            time.sleep(AGAIN_SECONDS)
    except KeyboardInterrupt:
        console.print("Leaving.")
    finally:
        for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(ending, signal.SIG_IGN)  # A second Ctrl-C would leave Ray behind.
        if running is not None and running.poll() is None:
            running.terminate()
            try:
                running.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
        end(started_from(home()))


def head_versions(host: str, port: int, environment: dict[str, str]) -> dict[str, str]:
    """Ray's and Python's version of the head: `ray_version`, `python_version`. Raises `StartProblem`.

    Asked in a process of its own: Ray's client reads the token once, and ends its process where it is wrong.
    """
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise StartProblem(
            f"{host}:{port} does not answer ({error.strerror or error}): is the head up with `up.sh --interface "
            f"{host}`, and may this machine reach it (Tailscale, firewall)?"
        ) from error
    code = (
        "import sys; from ray._raylet import GcsClient;"
        "print(GcsClient(address=sys.argv[1]).internal_kv_get(b'CLUSTER_METADATA', b'cluster', 10).decode())"
    )
    command = [sys.executable, "-c", code, f"{host}:{port}"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40, check=False)
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise StartProblem(
            f"{host}:{port} does not take this token: print the right one with `groupqwen invite` on the head"
        ) from error


def check_versions(theirs: dict[str, str], where: str) -> None:
    """Ray takes no node of another version. Raises `StartProblem`."""
    import ray

    mine = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    for name, version in mine.items():
        if theirs.get(name) != version:
            what = name.removesuffix("_version").capitalize()
            raise StartProblem(
                f"{what} is {version} here and {theirs.get(name)} on {where}: install the same on both, and run "
                "again (GROUPQWEN_PYTHON names a Python)"
            )


def own_address(host: str, port: int) -> str:
    """The address of this machine that reaches the head. Raises `StartProblem`."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise StartProblem(f"{host} is no address that this machine knows a way to ({error})") from error


def _address(head: str, port: int) -> tuple[str, int]:
    host, _, given = head.partition(":")
    if not host or (given and not given.isdecimal()):
        raise StartProblem(f"{head!r} is no address: say HOST or HOST:PORT")
    return host, int(given or port)


def _remember_token(here: Home, token: str | None) -> None:
    path = here.run / "ray-token"
    if token:
        write_private(path, token.strip())
    elif not path.is_file():
        raise StartProblem(
            "no token: `groupqwen invite` on the head prints it; set GROUPQWEN_JOIN_TOKEN the first time"
        )


def _free_port(interface: str) -> int:
    with socket.socket() as probe:
        probe.bind((interface, 0))
        return int(probe.getsockname()[1])
