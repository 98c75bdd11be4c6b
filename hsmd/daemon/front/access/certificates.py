"""The rules for OpenSSH user certificates (OpenSSH PROTOCOL.certkeys), stricter than the SSH library's own.

Extensions are ignored: they would only allow what this daemon never offers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hsmd.daemon.front.access.rules import Rule

SOURCE_ADDRESS = "source-address"


def broken_rule(
    user_name: str,
    *,
    principals: Sequence[str],
    critical_options: Mapping[str, object],
    valid_after: datetime,
    valid_before: datetime,
    peer_address: str,
    now: datetime,
) -> Rule | None:
    """The first rule that the certificate breaks for this user name and moment, None if it keeps all.

    `critical_options` maps names to values; the value of source-address is its text, or the networks in it.
    """
    # An empty list would mean "any user" to some libraries, a longer one that we do not know who this is.
    if len(principals) != 1 or not principals[0]:
        return Rule.NOT_ONE_PRINCIPAL
    if principals[0] != user_name:
        return Rule.PRINCIPAL_MISMATCH
    if now < valid_after:
        return Rule.CERTIFICATE_NOT_YET_VALID
    if now >= valid_before:
        return Rule.EXPIRED_CERTIFICATE
    if set(critical_options) - {SOURCE_ADDRESS}:
        return Rule.UNKNOWN_CRITICAL_OPTION
    if SOURCE_ADDRESS in critical_options and not _comes_from(critical_options[SOURCE_ADDRESS], peer_address):
        return Rule.SOURCE_ADDRESS
    return None


def _comes_from(option: object, peer_address: str) -> bool:
    """Whether the peer's address is in one of the networks; False if either cannot be understood."""
    try:
        networks = [ip_network(text) for text in _texts(option)]
        address = _unmapped(peer_address)
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in networks)


def _texts(option: object) -> list[str]:
    if isinstance(option, str):
        return option.split(",")
    if isinstance(option, (list, tuple)):
        return [str(network) for network in option]
    raise ValueError("neither text nor networks")


def _unmapped(text: str) -> IPv4Address | IPv6Address:
    """An address without its zone; IPv4 that arrived on an IPv6 socket is IPv4 again."""
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
