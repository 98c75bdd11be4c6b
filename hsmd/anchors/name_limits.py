"""Whether name constraints permit no more than others (RFC 5280, section 4.2.1.10). In doubt they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network

from cryptography import x509

_CLOSED = "invalid"
"""Permitting nothing but a name that nothing has (RFC 6761, section 6.4) permits nothing."""
_EVERYWHERE = frozenset({ip_network("0.0.0.0/0"), ip_network("::/0")})


def permits_no_more(inner: x509.NameConstraints | None, outer: x509.NameConstraints | None) -> bool:
    """Whether each name that `inner` lets pass is one that `outer` lets pass. None lets all names pass."""
    if outer is None:
        return True
    if inner is None:
        return False
    permitted, excluded = inner.permitted_subtrees or [], inner.excluded_subtrees or []
    kinds = {_kind(name) for name in outer.permitted_subtrees or []}
    return all(
        _is_closed(kind, excluded)
        or _all_within(_of(kind, permitted), _of(kind, outer.permitted_subtrees or []))
        for kind in kinds
    ) and all(any(_within(name, other) for other in excluded) for name in outer.excluded_subtrees or [])


def _kind(name: x509.GeneralName) -> type[x509.GeneralName]:
    return type(name)


def _of(kind: type[x509.GeneralName], names: Iterable[x509.GeneralName]) -> list[x509.GeneralName]:
    return [name for name in names if _kind(name) is kind]


def _is_closed(kind: type[x509.GeneralName], excluded: Sequence[x509.GeneralName]) -> bool:
    """Whether all addresses are excluded."""
    return kind is x509.IPAddress and {name.value for name in excluded} >= _EVERYWHERE


def _all_within(names: Sequence[x509.GeneralName], others: Sequence[x509.GeneralName]) -> bool:
    """Whether names of a kind are permitted at all only within others of the kind; without an entry all are permitted."""
    return bool(names) and all(
        name.value == _CLOSED or any(_within(name, other) for other in others) for name in names
    )


def _within(name: x509.GeneralName, other: x509.GeneralName) -> bool:
    if type(name) is not type(other):
        return False
    test = _TESTS.get(type(other))
    return name == other or (test is not None and test(name.value, other.value))


def _dns_within(name: str, other: str) -> bool:
    name, other = name.lower(), other.lower()
    return not other or name == other or name.endswith(other if other.startswith(".") else "." + other)


def _email_within(name: str, other: str) -> bool:
    """A mailbox, host, or hosts below a name, within such an entry. The local part of a mailbox is compared as it is."""
    if "@" in other:
        return False
    host, other = name.rpartition("@")[2].lower(), other.lower()
    return host.endswith(other) if other.startswith(".") else host == other


def _network_within(name: object, other: object) -> bool:
    inner, outer = ip_network(str(name)), ip_network(str(other))
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


_TESTS: dict[type[x509.GeneralName], Callable[..., bool]] = {
    x509.DNSName: _dns_within,
    x509.RFC822Name: _email_within,
    x509.IPAddress: _network_within,
}
