from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from configs.home import Home
from configs.profile import Ports, load_profile
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.firewall import firewall, interface_of, ray_ports
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings
from groupqwen.stack.supervisor import ray_program

PORTS = Ports.model_validate({})
ADDRESSES = {"eth0": ["10.0.0.5"], "tailscale0": ["100.64.0.1"], "lo": ["127.0.0.1"]}


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three network interfaces, behind psutil's own name."""
    address = type("Address", (), {"__init__": lambda self, text: setattr(self, "address", text)})
    found = {name: [address(text) for text in texts] for name, texts in ADDRESSES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


def covered(rules: str) -> set[int]:
    listed = re.search(r"tcp dport \{ (.+) \} drop", rules)
    assert listed is not None
    closed: set[int] = set()
    for part in listed[1].split(", "):
        first, _, last = part.partition("-")
        closed |= set(range(int(first), int(last or first) + 1))
    return closed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nftables are Linux'")
def test_all_ports_on_which_ray_listens_everywhere_are_closed_but_on_one_interface(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    said = firewall(home, PORTS, "100.64.0.1", "the machines of the group")
    path = home.run / "firewall.nft"
    assert f"sudo nft -f {path}" in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rules = path.read_text()
    assert 'iifname != { "lo", "tailscale0" }' in rules
    settings = Settings(home, load_profile("cpu"), PORTS, interface="100.64.0.1")
    options = dict(part.lstrip("-").split("=", 1) for part in ray_program(settings).command if "=" in part)
    listens = {name: int(value) for name, value in options.items() if name.endswith("port")}
    environment = settings.environment(Credentials("", "", "", ""))
    listens |= {name: int(value) for name, value in environment.items() if name.endswith("_METRIC_PORT")}
    assert len(listens) > 9
    workers = set(range(listens.pop("min-worker-port"), listens.pop("max-worker-port") + 1))
    on_loopback = {listens.pop("dashboard-port")}
    assert len(workers) > 500
    assert {*listens.values(), *workers} <= covered(rules)
    assert not on_loopback & covered(rules)
    assert PORTS.http not in covered(rules), "the endpoint has its own addresses and keys"


def test_two_groups_on_one_machine_do_not_share_ports() -> None:
    blocks = [ray_ports(PORTS.shifted(offset)) for offset in (0, 1000)]
    assert blocks[0]["max-worker-port"] < blocks[1]["node-manager-port"]


def test_an_address_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert interface_of("10.0.0.5") == "eth0"
    with pytest.raises(StartProblem, match=r"no address 10.9.9.9; it has 10.0.0.5, 100.64.0.1, 127.0.0.1"):
        interface_of("10.9.9.9")


def test_another_system_is_told_the_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    said = firewall(Home(tmp_path), PORTS, "100.64.0.1", "100.64.0.9")
    assert "21000-21999" in said and "100.64.0.9" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed")
def test_nftables_takes_the_rules_twice(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    firewall(home, PORTS, "100.64.0.1", "others")
    for _ in range(2):
        done = subprocess.run(
            ["nft", "--check", "-f", str(home.run / "firewall.nft")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
