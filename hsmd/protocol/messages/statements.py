"""Control requests about the keys with which daemons sign statements."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import ANY_ROLE, NO_SUBJECT, OPERATOR, Done, Request
from hsmd.protocol.messages.enumerations import STATEMENT_KEY_STATE

__all__ = ["StatementEndorse", "StatementKey", "StatementKeyList", "StatementKeys"]

StateName = Annotated[str, STATEMENT_KEY_STATE.meta]


class StatementKey(Struct):
    """A key with which the daemons that share the store sign statements, each under its own name."""

    name: str
    """The key's name."""
    state: StateName
    key: str
    """Base64 of signature type and key, as at the end of the verifier keys."""
    verifier_keys: list[str]
    """C2SP verifier key lines, one for each daemon."""


class StatementKeyList(Struct):
    """All keys that sign, signed or will sign statements."""

    keys: list[StatementKey]
    """The one that signs comes first."""
    endorsements: list[str]
    """Notes in which operators endorsed a new key after an old one, the newest last."""


class StatementKeys(Request, tag="statement.keys"):
    """List the keys with which the daemons sign statements, with the operators' endorsements."""

    Result = StatementKeyList
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT


class StatementEndorse(Request, tag="statement.endorse"):
    """Endorse a new statement key, in a note signed with the operator's own SSH key; the daemons sign with it from then on."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"note"})

    note: Annotated[str, Meta(max_length=4_096)]
    """A C2SP signed note; its text is described in [protocol.md](protocol.md), section 9."""
