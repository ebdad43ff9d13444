"""Keeping Ray's processes to one interface. On an address other than loopback they listen on all of them, so their
ports are a known block then, and a firewall closes it elsewhere: on Linux by nftables rules, written here."""

from __future__ import annotations

import sys

import psutil

from configs.home import Home
from configs.profile import Ports
from groupqwen.stack.credentials import write_private
from groupqwen.stack.problem import StartProblem

WORKERS = 990

RULES = """\
# Made by GroupQwen: Ray's ports are open on {name} and loopback only. `sudo nft -f {path}` applies it, again and
# again if need be; `sudo nft delete table inet {table}` takes it back.
table inet {table}
delete table inet {table}
table inet {table} {{
    chain input {{
        type filter hook input priority -5; policy accept;
        iifname != {{ "lo", "{name}" }} tcp dport {{ {ports} }} drop
    }}
}}
"""


def ray_ports(ports: Ports) -> dict[str, int]:
    """`ray start`'s options that put all of its processes into one block, on every node."""
    first = ports.cluster
    return {
        "node-manager-port": first,
        "object-manager-port": first + 1,
        "runtime-env-agent-port": first + 2,
        "dashboard-agent-grpc-port": first + 3,
        "min-worker-port": first + 10,
        "max-worker-port": first + 10 + WORKERS - 1,
    }


def interface_of(address: str) -> str:
    """The name of the interface that has this address. Raises `StartProblem`."""
    known = {entry.address: name for name, entries in psutil.net_if_addrs().items() for entry in entries}
    if address not in known:
        addresses = ", ".join(sorted(text for text in known if text.count(".") == 3))
        raise StartProblem(f"this machine has no address {address}; it has {addresses}")
    return known[address]


def firewall(home: Home, ports: Ports, address: str, others: str) -> str:
    """Write the rules; say how to apply them. `others`: who is to be let in, in words. Raises `StartProblem`."""
    name = interface_of(address)
    block = f"{ports.cluster}-{ports.cluster + 10 + WORKERS - 1}"
    if not sys.platform.startswith("linux"):
        return (
            f"Ray listens on all interfaces of this machine, on TCP ports {block}: let its firewall take nothing "
            f"but {others} in. (In Tailscale: allow these ports between the machines of the group only.)"
        )
    path = home.run / "firewall.nft"
    singles = sorted({ports.gcs, ports.ray_client, ports.agent, ports.metrics})
    listed = ", ".join([*map(str, singles), block])
    table = f"groupqwen_{ports.gcs}"
    write_private(path, RULES.format(name=name, path=path, table=table, ports=listed))
    return (
        f"Ray listens on all interfaces of this machine: `sudo nft -f {path}` closes its ports ({listed}) to all "
        f"but {name} and loopback. (In Tailscale: let nothing but {others} reach them.)"
    )
