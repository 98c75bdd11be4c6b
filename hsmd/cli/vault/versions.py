"""How commands of `hsmd vault` show versions of records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmd.cli.base.output import when

if TYPE_CHECKING:
    from hsmd.protocol.messages import VaultVersion

HEADERS = ("RECORD", "VERSION", "STATE", "REASON", "UNTIL", "USES", "MODE", "KEY")


def row(version: VaultVersion) -> tuple[str, ...]:
    """The cells of a version."""
    return (
        version.record,
        str(version.version),
        version.state,
        "" if version.reason == "none" else version.reason,
        when(version.not_after),
        uses(version),
        version.mode,
        version.key[:16],
    )


def uses(version: VaultVersion) -> str:
    """How often it was given out, and of how many if they are limited."""
    given = f"{version.released} of {version.max_uses}" if version.max_uses else str(version.released)
    refused = version.requests - version.released
    return given + (f", {refused} refused" if refused else "")
