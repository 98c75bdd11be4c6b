"""The table of roles: who may make which control request. What is not in it, nobody may."""

from __future__ import annotations

from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role

_AUDITOR: frozenset[type[Request]] = frozenset(
    {
        messages.WhoAmI,
        messages.Status,
        messages.MetricsRead,
        messages.KeyList,
        messages.KeyShow,
        messages.CertificateExport,
        messages.ClientList,
        messages.ClientRotateKey,
        messages.ClientRevoked,
        messages.TokenList,
        messages.GrantList,
        messages.GrantExplain,
        messages.AuditRead,
        messages.AuditCheckpoint,
        messages.AuditProve,
        messages.AuditAbout,
        messages.AuditStand,
        messages.KeyOwnerList,
    }
)

_FRONT_END: frozenset[type[Request]] = frozenset(
    {
        messages.WhoAmI,
        messages.ClientRotateKey,
        messages.KeyList,
        messages.KeyShow,
        messages.CertificateExport,
        messages.AuditCheckpoint,
        messages.AuditProve,
        messages.AuditAbout,
    }
)

ALLOWED: dict[Role, frozenset[type[Request]]] = {
    Role.OPERATOR: frozenset(messages.REQUESTS),
    Role.AUDITOR: _AUDITOR,
    Role.FRONT_END: _FRONT_END,
}


def key_named(request: Request) -> str | None:
    """The key that a request is about, which a front end may see only with a grant; None if it names none."""
    if isinstance(request, messages.KeyShow):
        return request.name
    if isinstance(request, messages.CertificateExport):
        return request.key
    return None
