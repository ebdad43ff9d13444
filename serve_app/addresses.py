"""Which addresses are everybody's: fetching from them reaches nothing that only this machine can reach. Pure.

No list knows what a network's own gateway turns into an address inside: an operator's own NAT64 prefix, or the
public address of one's own router.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")
"""All that IANA has given to networks. Outside of it: loopback, private, link-local, multicast, mapped IPv4, …"""

_NAT64 = IPv6Network("64:ff9b::/96")
"""How an IPv6-only network reaches IPv4; the last 32 bits are the address that is meant."""

_SPECIAL: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT, and Tailscale
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's machine agent, which looks public
        "169.254.0.0/16",  # link-local; clouds tell a machine's secrets here
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address in disguise
        "3fff::/20",
    )
)
"""Said here too, because what Python's own table holds differs from release to release."""


class Interface(Protocol):
    """What psutil says of one address of one interface."""

    @property
    def address(self) -> str: ...
    @property
    def netmask(self) -> str | None: ...


def is_public(address: Address) -> bool:
    """Whether it belongs to the internet, however it is written."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _UNICAST or address.scope_id is not None:
            return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved)
        and not any(address in network for network in _SPECIAL)
    )


def networks_of(interfaces: Mapping[str, Iterable[Interface]]) -> list[Network]:
    """The networks that a machine is in, from `psutil.net_if_addrs()`. At home those of IPv6 are public addresses,
    and a printer that answers to one trusts whoever is beside it."""
    found: list[Network] = []
    for interface in (each for of_one in interfaces.values() for each in of_one):
        try:
            address = ip_address(interface.address.partition("%")[0])
            mask = ip_address(interface.netmask) if interface.netmask else None
        except ValueError:
            continue  # A hardware address.
        length = address.max_prefixlen if mask is None else int(mask).bit_count()
        found.append(ip_network((int(address).to_bytes(address.max_prefixlen // 8), length), strict=False))
    return found
