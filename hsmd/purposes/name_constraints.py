"""The names that an authority may certify: DNS names, addresses and e-mail addresses, as RFC 5280, section 4.2.1.10.

Stricter than a name constraint of a certificate: a kind of name of which nothing is permitted is not certified at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated

from cryptography import x509
from msgspec import Meta, Struct

from hsmd.errors import BadRequest
from hsmd.purposes.host_names import WILDCARD, host_name

ANY = "*"
"""Permits every DNS name, or every e-mail address."""
MAX_ENTRIES = 50
"""Of one kind in one list."""
_CLOSED = "invalid"
"""A name that nothing has (RFC 6761, section 6.4): permitting it alone closes a kind of name, for every verifier."""
_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_OF_IPV4 = tuple(map(IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
"""An atom with dots between (RFC 5322, section 3.2.3): no quoted local parts."""

Entry = Annotated[str, Meta(min_length=1, max_length=255)]
Entries = Annotated[list[Entry], Meta(max_length=MAX_ENTRIES)]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class NameSet(Struct, forbid_unknown_fields=True, frozen=True):
    """Names of three kinds, sorted, each there once. Made by `of`.

    `dns`: `example.com` is the name and all below it, `*` is everything. `ip`: networks with their prefix, `192.0.2.0/24`.
    `email`: `a@example.com` is one mailbox, `example.com` all of one host, `.example.com` all hosts below it, `*` everything.
    """

    dns: Entries = []
    ip: Entries = []
    email: Entries = []

    @classmethod
    def of(
        cls, field: str, dns: Sequence[str] = (), ip: Sequence[str] = (), email: Sequence[str] = ()
    ) -> NameSet:
        """The set that a user gives. Raises BadRequest, whose text begins with `field`."""
        for kind, entries in (("DNS names", dns), ("networks", ip), ("e-mail addresses", email)):
            if len(entries) > MAX_ENTRIES:
                raise BadRequest(f"{field}: at most {MAX_ENTRIES} {kind}; give what they have in common")
        return cls(
            sorted({_dns_entry(field, name) for name in dns}),
            sorted({_network(field, text) for text in ip}),
            sorted({_email_entry(field, text) for text in email}),
        )

    def again(self, field: str) -> NameSet:
        """The canonical form. Raises BadRequest as `of`."""
        return NameSet.of(field, self.dns, self.ip, self.email)

    def has_dns(self, name: str) -> bool:
        """Whether a host name in lower case, or all names that a wildcard stands for, are in the set."""
        base = name.removeprefix(WILDCARD)
        return any(_dns_within(base, entry) for entry in self.dns)

    def touches_dns(self, name: str) -> bool:
        """Whether a host name, or one of the names that a wildcard stands for, is in the set."""
        if self.has_dns(name):
            return True
        below = "." + name.removeprefix(WILDCARD)
        return name.startswith(WILDCARD) and any(entry.endswith(below) for entry in self.dns)

    def has_address(self, address: Address) -> bool:
        """Whether an address is in one of the networks."""
        return any(address in _parsed(text) for text in self.ip)

    def has_email(self, mailbox: str) -> bool:
        """Whether a mailbox is in the set."""
        return any(_email_within(mailbox, entry) for entry in self.email)

    def touches_email(self, mailbox: str) -> bool:
        """Whether a mailbox, or one that differs in case alone, is in the set: few mail systems tell them apart."""
        return any(_email_within(mailbox.lower(), entry.lower()) for entry in self.email)

    def covers(self, other: NameSet) -> bool:
        """Whether all names of `other` are in this set."""
        return (
            all(ANY in self.dns or (name != ANY and self.has_dns(name)) for name in other.dns)
            and all(any(_network_within(text, entry) for entry in self.ip) for text in other.ip)
            and all(ANY in self.email or (entry != ANY and self.has_email(entry)) for entry in other.email)
        )


def name_constraints(permitted: NameSet, excluded: NameSet) -> x509.NameConstraints:
    """The extension that tells verifiers the same; a kind of which nothing is permitted is closed for them, too."""
    inside: list[x509.GeneralName] = []
    outside: list[x509.GeneralName] = []
    inside += [x509.DNSName(name) for name in permitted.dns or [_CLOSED] if ANY not in permitted.dns]
    inside += [x509.IPAddress(ip_network(text)) for text in permitted.ip]
    inside += [x509.RFC822Name(text) for text in permitted.email or [_CLOSED] if ANY not in permitted.email]
    outside += [x509.DNSName(name) for name in excluded.dns]
    # A permitted network closes both kinds of addresses, because they are one form of name; Java 17 fails on addresses of the
    # one kind where it meets networks of the other.
    outside += [x509.IPAddress(everywhere) for everywhere in _EVERYWHERE if not permitted.ip]
    outside += [x509.IPAddress(ip_network(text)) for text in excluded.ip]
    outside += [x509.RFC822Name(text) for text in excluded.email]
    return x509.NameConstraints(inside or None, outside or None)


def mailbox(field: str, text: str) -> str:
    """A mailbox `local@host` (RFC 5321, section 4.1.2), the host in lower case. Raises BadRequest."""
    local, at, host = text.rpartition("@")
    if not at or len(local) > 64 or not _LOCAL_PART.fullmatch(local) or host.startswith(WILDCARD):
        raise BadRequest(f"{field}: {text[:60]!a} is not an e-mail address such as a@example.com")
    return f"{local}@{host_name(field, host)}"


def _dns_entry(field: str, text: str) -> str:
    if text == ANY:
        return text
    if text.startswith(WILDCARD):
        raise BadRequest(
            f"{field}: {text[:60]!a}: give {text[2:60]!a}, which stands for all names below it, too"
        )
    return host_name(field, text)


def _network(field: str, text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise BadRequest(
            f"{field}: {text[:60]!a} is not a network such as 192.0.2.0/24 or 2001:db8::/32"
        ) from None


def _email_entry(field: str, text: str) -> str:
    if text == ANY:
        return text
    if "@" in text:
        return mailbox(field, text)
    return "." * text.startswith(".") + host_name(field, text.removeprefix("."))


def _dns_within(name: str, entry: str) -> bool:
    return entry == ANY or name == entry or name.endswith("." + entry)


@lru_cache(maxsize=1_000)
def _parsed(text: str) -> Network:
    return ip_network(text)


def holds_ipv4(address: Address) -> bool:
    """Whether an IPv6 address stands for one of IPv4: mapped, compatible, or translated (RFC 4291, 2.5.5; RFC 6052, 2.1)."""
    return isinstance(address, IPv6Address) and any(address in each for each in _OF_IPV4) and int(address) > 1


def _network_within(text: str, entry: str) -> bool:
    inner, outer = ip_network(text), ip_network(entry)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _email_within(text: str, entry: str) -> bool:
    """Whether a mailbox, or an entry, is within an entry. The local part of a mailbox is compared as it is."""
    if entry == ANY or text == entry:
        return True
    if "@" in entry:
        return False
    host = text.rpartition("@")[2]
    return host.endswith(entry) if entry.startswith(".") else host == entry


def entries_of(*sets: NameSet) -> Iterable[str]:
    """All entries, to show them."""
    for each in sets:
        yield from (*each.dns, *each.ip, *each.email)
