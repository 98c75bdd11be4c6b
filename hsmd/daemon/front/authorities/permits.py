"""What an operator lets an authority issue to a node: checked against the authority's ceiling at once, not when a node asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509

from hsmd.daemon.pki.authority import USES
from hsmd.daemon.pki.names import MAX_NAMES, alternative_names, subject
from hsmd.daemon.store import PermitRecord
from hsmd.errors import BadRequest
from hsmd.protocol.messages import CaAllow
from hsmd.purposes import AuthorityConstraints
from hsmd.purposes.name_constraints import ANY, mailbox


def names_of(permit: PermitRecord | CaAllow) -> list[x509.GeneralName]:
    """The alternative names of its certificates. Raises BadRequest."""
    names = alternative_names(permit.dns_names, permit.ip_addresses)
    names += [x509.RFC822Name(mailbox("emails", text)) for text in dict.fromkeys(permit.emails)]
    if len(names) > MAX_NAMES:
        raise BadRequest(f"emails: at most {MAX_NAMES} names in all")
    return names


def permit_of(request: CaAllow, now: datetime) -> PermitRecord:
    """The permit that a request asks for, its names in the form that certificates have. Raises BadRequest naming the member."""
    if request.profile not in USES:
        raise BadRequest(f"profile: choose one of {', '.join(USES)}")
    names = names_of(request)
    subject(request.common_name, "")
    return PermitRecord(
        authority=request.authority,
        client=request.client,
        profile=request.profile,
        common_name=request.common_name,
        dns_names=_values(names, x509.DNSName),
        ip_addresses=_values(names, x509.IPAddress),
        emails=_values(names, x509.RFC822Name),
        term_s=request.term_s,
        since=now,
    )


def check_permit(permit: PermitRecord, constraints: AuthorityConstraints) -> None:
    """Raises BadRequest naming what the ceiling does not permit: the rules are those of `AuthorityCheck`."""
    name = permit.authority
    if permit.profile not in constraints.profiles:
        known = ", ".join(constraints.profiles) or "other authorities only"
        raise BadRequest(f"profile: {name} does not certify {permit.profile}; its ceiling has: {known}")
    if permit.term_s > constraints.leaf_s:
        raise BadRequest(f"term_s: {name} certifies for {_length(constraints.leaf_s)} at most")
    hosts = (*permit.dns_names, *permit.ip_addresses)
    if permit.profile != "client" and not hosts:
        raise BadRequest("dns_names: a server's certificate has at least one host name or address")
    if not (hosts or permit.emails or permit.common_name):
        raise BadRequest("dns_names: give at least one name for the certificates")
    _check_alternative_names(permit, constraints)
    if permit.common_name and not _permits_common_name(permit.common_name, hosts, constraints):
        raise BadRequest(
            f"common_name: the ceiling of {name} does not permit {permit.common_name!a}; it may be one of the "
            f"alternative names, or of: {', '.join(constraints.common_names) or '(none)'}"
        )


def _check_alternative_names(permit: PermitRecord, constraints: AuthorityConstraints) -> None:
    inside, outside = constraints.permitted, constraints.excluded
    for name in permit.dns_names:
        if not inside.has_dns(name) or outside.touches_dns(name):
            raise _not_permitted("dns_names", permit, name, inside.dns, outside.dns)
    for text in permit.ip_addresses:
        address = ip_address(text)
        if not inside.has_address(address) or outside.has_address(address):
            raise _not_permitted("ip_addresses", permit, text, inside.ip, outside.ip)
    for email in permit.emails:
        if not inside.has_email(email) or outside.has_email(email):
            raise _not_permitted("emails", permit, email, inside.email, outside.email)


def _permits_common_name(name: str, hosts: Sequence[str], constraints: AuthorityConstraints) -> bool:
    if name in hosts or name in constraints.common_names:
        return True
    return ANY in constraints.common_names and not any(sign in name for sign in ".@:")


def _not_permitted(
    member: str, permit: PermitRecord, name: str, inside: Sequence[str], outside: Sequence[str]
) -> BadRequest:
    permitted = ", ".join(inside) or "(none)"
    excepted = f", but not {', '.join(outside)}" if outside else ""
    return BadRequest(
        f"{member}: the ceiling of {permit.authority} does not permit {name}; it permits: {permitted}{excepted}"
    )


def _length(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return f"{days} days" if days > 1 and not rest else f"{seconds / 3_600:g} hours"


def _values(names: Sequence[x509.GeneralName], kind: type[x509.GeneralName]) -> tuple[str, ...]:
    return tuple(str(name.value) for name in names if isinstance(name, kind))
