"""Rules for OpenSSH user certificates (OpenSSH PROTOCOL.certkeys), stricter than those of the SSH library.

Extensions are ignored: they permit only features that this daemon does not offer.
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
    """The first rule that the certificate breaks for this user name at this time; None if it breaks none.

    `critical_options` maps names to values; the value of source-address is its text, or the networks in it.
    """
    # To some libraries an empty list means "any user"; of several principals none identifies the client.
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
    if SOURCE_ADDRESS in critical_options and not _is_in_networks(
        critical_options[SOURCE_ADDRESS], peer_address
    ):
        return Rule.SOURCE_ADDRESS
    return None


def _is_in_networks(option: object, peer_address: str) -> bool:
    """Whether the peer's address is in one of the networks; False if the option or the address cannot be parsed."""
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
    """An address without its zone; an IPv4-mapped IPv6 address as IPv4."""
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
