"""Roles of clients, as they stand in control requests and results, in the store and on the command line."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from hsmd.errors import BadRequest


class Role(Enum):
    """What a client is to the daemon; docs/control.md says what each may do. A client has one or several of them.

    Where only one can be named, it is the first of a client's roles in the order below.
    """

    OPERATOR = "operator"
    AUDITOR = "auditor"
    FRONT_END = "front-end"
    OWNER = "owner"
    CHECKER = "checker"
    NODE = "node"
    DEPOSITARY = "depositary"


AT_OPERATOR_ADDRESSES = frozenset({Role.OPERATOR, Role.AUDITOR})
"""The roles that a client has only at `operator_addresses`, where these are configured; the others only elsewhere."""
EXCLUSIVE = frozenset({Role.OPERATOR, Role.DEPOSITARY})
"""Two roles that no client has both of: what takes an operator and a depositary takes two parties."""


def in_order(roles: Collection[Role]) -> list[Role]:
    """The roles in the order of their definition."""
    return [role for role in Role if role in roles]


def admitted(roles: frozenset[Role], at: frozenset[Role]) -> bool:
    """Whether a token of a client with these roles may be used at an address that admits the roles `at`.

    Whoever uses it has the client's roles at every address. So where a token could make an operator or auditor, only an
    address that admits these will do.
    """
    return bool(roles & at) and roles & AT_OPERATOR_ADDRESSES <= at


def check_roles(roles: frozenset[Role]) -> None:
    """Raises BadRequest unless one client may have these roles."""
    if not roles:
        raise BadRequest("a client without a role can do nothing; name one or several roles")
    if roles >= EXCLUSIVE:
        raise BadRequest(
            "operator and depositary exclude each other, because what takes both of them must take two parties; "
            "use two clients"
        )
