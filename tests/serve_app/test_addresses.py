from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.addresses import is_public, networks_of


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"],
)
def test_the_internets(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
        ),
        *("100.64.0.1", "100.127.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "203.0.113.9"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "fe80::1", "fec0::1", "fc00::1"),
        *("fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("2002:7f00:1::", "2002:808:808::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2606:4700::1111%eth0", "fe80::1%eth0", "::ffff:0:127.0.0.1", "5f00::1"),
    ],
)
def test_not_the_internets(address: str) -> None:
    assert not is_public(ip_address(address))


INSIDE = [
    ip_network(each)
    for each in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
]


@given(st.sampled_from(INSIDE), st.integers(0, 2**32 - 1))
def test_an_inside_address_is_none_in_whatever_dress(network: object, number: int) -> None:
    inside = network[number % network.num_addresses]  # type: ignore[index, attr-defined]
    low, dressed = int(inside), ip_address("2001:4860::8888")
    assert not is_public(inside)
    for prefix in ("::ffff:0:0", "::", "64:ff9b::", "64:ff9b:1::", "::ffff:0:0:0"):
        assert not is_public(IPv6Address(int(IPv6Address(prefix)) | low)), prefix
    assert not is_public(IPv6Address(0x2002 << 112 | low << 80)), "6to4"
    assert not is_public(IPv6Address(0x20010000 << 96 | (low ^ 0xFFFFFFFF))), "Teredo"
    assert is_public(dressed)


@given(st.ip_addresses())
def test_nothing_is_public_that_python_says_is_not(address: IPv4Address | IPv6Address) -> None:
    if is_public(address) and address not in ip_network("64:ff9b::/96"):
        assert address.is_global
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_reserved or address.is_unspecified)


@dataclass
class Entry:
    address: str
    netmask: str | None = None


def test_the_networks_that_a_machine_is_in() -> None:
    found = networks_of(
        {
            "eth0": [
                Entry("93.184.216.34", "255.255.255.0"),
                Entry("2a02:8070:1:2:3::9", "ffff:ffff:ffff:ffff::"),
                Entry("fe80::1%eth0", "ffff:ffff:ffff:ffff::"),
                Entry("aa:bb:cc:dd:ee:ff"),
            ],
            "tun0": [Entry("2a02::77", None)],
        }
    )
    assert [str(network) for network in found] == [
        "93.184.216.0/24",
        "2a02:8070:1:2::/64",
        "fe80::/64",
        "2a02::77/128",
    ]
    assert any(ip_address("127.0.0.1") in network for network in networks_of(psutil.net_if_addrs()))
