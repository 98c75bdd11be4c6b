"""What `hsmd vault put` and `hsmd vault generate` print about a deposit."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields

if TYPE_CHECKING:
    from hsmd.envelopes.vault.records import RecordStatement


def show(session: Session, statement: RecordStatement, spki: bytes, hint: str) -> None:
    """Print record, version, terms and public half."""
    document = {
        "record": statement.record,
        "version": statement.version,
        "key": statement.key,
        "public_key": pem(spki) if spki else "",
        "not_before": statement.not_before,
        "not_after": statement.not_after,
        "max_uses": statement.max_uses,
        "mode": statement.mode.value,
    }
    session.output.show(
        document,
        lambda: fields(
            [
                ("record", statement.record),
                ("version", str(statement.version)),
                ("key", statement.key),
                ("not before", statement.not_before),
                ("not after", statement.not_after),
                ("uses", f"{statement.max_uses} ({statement.mode})" if statement.max_uses else "no limit"),
            ]
        ),
        hints=hint,
    )


def pem(spki: bytes) -> str:
    """A public key as PEM."""
    body = base64.b64encode(spki).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"
