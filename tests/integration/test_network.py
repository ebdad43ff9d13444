"""Two machines and a stranger, as network namespaces: who reaches what, and how a request's machine is known.

It needs root, `ip` and `nft`, and starts a group of its own, so it runs only when it is asked for:
`GROUPQWEN_NETWORK_TESTS=1 bash scripts/test.sh tests/integration/test_network.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from configs.home import Home
from groupqwen.stack.credentials import Credentials, load_credentials
from groupqwen.stack.lifecycle import Choices, settings_for
from groupqwen.stack.processes import marked
from groupqwen.stack.settings import Settings
from tests.integration.conftest import MIXED, ROOT, SMALL, wait_for

OFFSET = 2000
HEAD, MAC, STRANGER = "10.77.0.1", "10.77.0.2", "10.88.0.2"
HEAD_TO_STRANGER = "10.88.0.1"
THERE = "macbook-coder"

pytestmark = pytest.mark.skipif(
    not os.environ.get("GROUPQWEN_NETWORK_TESTS"), reason="it makes networks: set GROUPQWEN_NETWORK_TESTS=1"
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def networks() -> Iterator[None]:
    """A namespace for the second machine and one for the stranger, each with a cable to this one."""
    for name, here, there in (("gqmac", HEAD, MAC), ("gqother", HEAD_TO_STRANGER, STRANGER)):
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{here}/24", "dev", name)
        run("ip", "link", "set", name, "up")
        run("ip", "-n", name, "addr", "add", f"{there}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", link, "up")
    yield
    for name in ("gqmac", "gqother"):
        run("ip", "netns", "del", name)


@pytest.fixture(scope="module")
def head(
    networks: None, home: Home, weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Credentials]]:
    """A group of its own that lets others join over one address, with the second machine in it."""
    del networks, weights
    folder = tmp_path_factory.mktemp("network")
    profile = yaml.safe_load(MIXED.read_text())
    profile["variants"] = {name: profile["variants"][name] for name in (SMALL, THERE)}
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(profile))
    homes = [Home(folder / name) for name in ("head", "mac")]
    for one in homes:
        one.make()
        one.models.rmdir()
        one.models.symlink_to(home.models)
    cli = [sys.executable, "-m", "groupqwen.cli"]
    here = {**os.environ, "PYTHONPATH": str(ROOT), "GROUPQWEN_HOME": str(homes[0].root)}
    choices = Choices(profile=str(path), listen=HEAD, port_offset=OFFSET, interface=HEAD)
    settings = settings_for(homes[0], choices)
    options = ["--profile", str(path), "--port-offset", str(OFFSET), "--interface", HEAD, "--listen", HEAD]
    joined = None
    try:
        started = [*cli, "up", "--no-ask", *options]
        up = subprocess.run(started, env=here, capture_output=True, text=True, check=False)
        assert up.returncode == 0, up.stdout + up.stderr
        credentials = load_credentials(homes[0])
        there = here | {"GROUPQWEN_HOME": str(homes[1].root), "GROUPQWEN_JOIN_TOKEN": credentials.ray_token}
        address = f"{HEAD}:{settings.ports.gcs}"
        join = [*cli, "join", "--head", address, "--device", "macbook", "--profile", str(path)]
        joined = subprocess.Popen(["ip", "netns", "exec", "gqmac", *join], env=there)
        running = settings, credentials
        wait_for(lambda: decision("gqmac", running, model=THERE)[0] == "200", 120, "it did not join")
        yield running
    finally:
        if joined is not None:
            joined.terminate()
            joined.wait(60)
        subprocess.run([*cli, "down"], env=here, check=False)


def decision(
    namespace: str | None, head: tuple[Settings, Credentials], model: str = "auto", **headers: str
) -> tuple[str, str]:
    """The status and the decision of a question that is asked from there."""
    settings, credentials = head
    where = ["ip", "netns", "exec", namespace] if namespace else []
    code = (
        "import httpx, sys; url, key, model, *more = sys.argv[1:];"
        "headers = {'Authorization': f'Bearer {key}', 'cache-control': 'no-store'} | dict([more] if more else []);"
        "body = {'model': model, 'messages': [{'role': 'user', 'content': 'Hi'}], 'max_tokens': 3};"
        "answer = httpx.post(url, json=body, headers=headers, timeout=60);"
        "print(answer.status_code); print(answer.headers.get('x-groupqwen-decision'))"
    )
    url = f"http://{HEAD if namespace else '127.0.0.1'}:{settings.ports.http}/v1/chat/completions"
    more = [part for pair in headers.items() for part in pair]
    status, said = run(*where, sys.executable, "-c", code, url, credentials.api_key, model, *more).splitlines()
    return status, said


def test_a_request_prefers_the_machine_that_it_comes_from(head: tuple[Settings, Credentials]) -> None:
    assert "from the macbook" in decision("gqmac", head)[1]
    assert "from the macbook" not in decision("gqmac", head, **{"x-groupqwen-device": "server"})[1]
    assert "from the macbook" not in decision(None, head)[1]
    forged = {"x-groupqwen-client": MAC}
    assert "from the macbook" not in decision(None, head, **forged)[1], "HAProxy says the address, not the client"


def test_what_listens_everywhere_is_closed_to_strangers(head: tuple[Settings, Credentials]) -> None:
    settings, _ = head
    family = {process.pid for process in marked(settings)}
    everywhere = {
        connection.laddr.port
        for connection in psutil.net_connections("inet")
        if connection.pid in family
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1", HEAD)
    }
    assert settings.ports.gcs in everywhere, "without rules there would be nothing to close"
    rules = settings.home.run / "firewall.nft"

    def reached(namespace: str, address: str) -> set[int]:
        code = (
            "import socket, sys\nfor port in sys.argv[2:]:\n"
            "    with socket.socket() as probe:\n        probe.settimeout(1)\n"
            "        if probe.connect_ex((sys.argv[1], int(port))) == 0: print(port)"
        )
        ports = [str(port) for port in sorted(everywhere)]
        said = run("ip", "netns", "exec", namespace, sys.executable, "-c", code, address, *ports)
        return {int(port) for port in said.split()}

    assert reached("gqother", HEAD_TO_STRANGER) == everywhere
    for _ in range(2):
        run("nft", "-f", str(rules))
    try:
        assert reached("gqother", HEAD_TO_STRANGER) == set()
        assert reached("gqmac", HEAD) == everywhere
        assert decision("gqmac", head, model=THERE)[0] == "200"
    finally:
        run("nft", "delete", "table", "inet", f"groupqwen_{settings.ports.gcs}")
