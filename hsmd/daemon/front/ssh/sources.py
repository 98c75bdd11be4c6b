"""The source of a connection: what limits and penalties before the login are counted by."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address


def source_of(peer: str) -> str:
    """The source of an address: an IPv4 address, also mapped into IPv6, or the /64 network of an IPv6 address.

    One host has all addresses of such a network (RFC 7934, section 3). A zone (RFC 4007) is kept: the link-local network of each
    link is another one. What is no address, such as that of a peer that has gone already, is its own source.
    """
    if ":" not in peer:
        return peer
    text, percent, zone = peer.partition("%")
    try:
        address = ip_address(text)
    except ValueError:
        return peer
    assert isinstance(address, IPv6Address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Network((int(address) >> 64 << 64, 64))}{percent}{zone}"
