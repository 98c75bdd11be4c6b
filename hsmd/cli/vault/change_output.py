"""What commands print after a change of a deposited key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields
from hsmd.cli.vault.versions import uses

if TYPE_CHECKING:
    from hsmd.envelopes.vault.records import RecordStatement
    from hsmd.protocol.messages import VaultVersion


def show(
    session: Session, statement: RecordStatement, hint: str = "", *, counted: VaultVersion | None = None
) -> None:
    """Print what holds from now on, and how often the version was taken out."""
    document: dict[str, object] = {
        "record": statement.record,
        "version": statement.version,
        "number": statement.number,
        "standing": statement.standing.value,
        "not_before": statement.not_before,
        "not_after": statement.not_after,
        "max_uses": statement.max_uses,
        "mode": statement.mode.value,
        "reason": statement.reason,
        "compromised_at": statement.compromised_at,
    }
    shown = {name: str(value) for name, value in document.items()}
    shown["max_uses"] = str(statement.max_uses or "no limit")
    if counted is not None:
        document |= {
            "requests": counted.requests,
            "released": counted.released,
            "uses_left": counted.uses_left,
        }
        shown["uses"] = uses(counted)
    session.output.show(
        document,
        lambda: fields([(name.replace("_", " "), value) for name, value in shown.items()]),
        hints=hint,
    )
