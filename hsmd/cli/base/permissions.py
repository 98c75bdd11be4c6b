"""Which requests the roles of the caller allow, so that commands make no others: a refusal is a record in the audit log."""

from __future__ import annotations

from hsmd.protocol.messages import Identity, Request


def may(caller: Identity, request: type[Request]) -> bool:
    """Whether a role of the caller allows the request, as far as this release knows roles."""
    held = {caller.role, *caller.roles}
    return any(role.value in held for role in request.roles)
