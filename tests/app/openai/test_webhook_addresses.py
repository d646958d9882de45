"""Webhooks reach public addresses, and private ones only if the operator allows them."""

from ipaddress import ip_network

import pytest

from app.openai.webhooks.addresses import host_may_be_reached, may_reach

PRIVATE = [
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # metadata of cloud machines
    "100.64.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "2002:7f00:1::",  # 6to4
    "2001:0:7f00:1::",  # Teredo
    "64:ff9b::169.254.169.254",  # NAT64
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_reached(address: str) -> None:
    assert not may_reach(address, [])
    assert not host_may_be_reached(address, [])


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_public_address_is_reached(address: str) -> None:
    assert may_reach(address, [])


def test_the_operator_allows_networks() -> None:
    allowed = [ip_network("10.0.0.0/8"), ip_network("::1")]
    assert may_reach("10.1.2.3", allowed)
    assert may_reach("::ffff:10.1.2.3", allowed)
    assert not may_reach("192.168.1.1", allowed)
    assert host_may_be_reached("localhost", allowed)
    assert not host_may_be_reached("hooks.localhost", allowed[:1])
    assert host_may_be_reached("example.com", [])
