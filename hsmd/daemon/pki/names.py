"""Names for certificates, strictly checked; errors name the field and the next step."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import NameOID

from hsmd.errors import BadRequest
from hsmd.purposes.host_names import host_name

MAX_NAMES = 100
"""Subject alternative names in one certificate; common CAs have the same limit."""
_MAX_ATTRIBUTE = 64
"""ub-common-name and ub-organization-name (RFC 5280, appendix A.1)."""
_LONGEST_ECHO = 60


def subject(common_name: str, organization: str) -> x509.Name:
    """A distinguished name; empty texts are left out. Raises BadRequest."""
    attributes = []
    if organization:
        attributes.append(
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _attribute("organization", organization))
        )
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, _attribute("common_name", common_name)))
    return x509.Name(attributes)


def alternative_names(dns_names: Sequence[str], ip_addresses: Sequence[str]) -> list[x509.GeneralName]:
    """Subject alternative names (RFC 5280, section 4.2.1.6), DNS names in lower case. Raises BadRequest."""
    if len(dns_names) + len(ip_addresses) > MAX_NAMES:
        raise BadRequest(
            f"dns_names: at most {MAX_NAMES} names and addresses in all; use a second certificate"
        )
    names: list[x509.GeneralName] = [x509.DNSName(dns_name(name)) for name in dns_names]
    names += [x509.IPAddress(ip_address(_address(text))) for text in ip_addresses]
    for position, name in enumerate(names):
        if name in names[:position]:
            field = "dns_names" if isinstance(name, x509.DNSName) else "ip_addresses"
            raise BadRequest(f"{field}: {_echo(str(name.value))} is given twice; give it once")
    return names


def dns_name(name: str) -> str:
    """A host name or a wildcard for its first label, in lower case. Raises BadRequest."""
    if name.isascii() and name.rpartition(".")[2].isdigit():
        raise BadRequest(f"dns_names: {_echo(name)} is an address; give it in ip_addresses")
    return host_name("dns_names", name)


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise BadRequest(f"ip_addresses: {_echo(text)} is not an IPv4 or IPv6 address without mask and zone")
    return str(address)


def _attribute(field: str, text: str) -> str:
    if len(text) > _MAX_ATTRIBUTE:
        raise BadRequest(f"{field}: at most {_MAX_ATTRIBUTE} characters")
    if text != text.strip() or any(
        unicodedata.category(character).startswith(("C", "Z")) and character != " " for character in text
    ):
        raise BadRequest(f"{field}: only printable characters are allowed, and no space at either end")
    return text


def _echo(text: str) -> str:
    return ascii(text[:_LONGEST_ECHO])
