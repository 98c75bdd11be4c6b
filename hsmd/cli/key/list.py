"""`hsmd key list`: list the keys of a daemon, or those that were destroyed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import name_patterns
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.key_details import owner_text, time_left
from hsmd.cli.base.output import table, when
from hsmd.cli.base.paging import destroyed_keys_of, keys_of
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    KeyInfo,
    PastKey,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


@command(
    app,
    "list",
    example="hsmd key list\nhsmd key list 'site-*'\nhsmd key list --json | jq -r '.keys[].name'\nhsmd key list --destroyed",
)
def list_keys(
    session: Session,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY...]",
            help="Names of keys, or patterns such as 'site-*'. Default: all.",
            show_default=False,
            callback=name_patterns.check,
        ),
    ] = [],  # noqa: B006  read only
    destroyed: Annotated[
        bool, typer.Option("--destroyed", help="List the keys that were destroyed, with all their names.")
    ] = False,
) -> None:
    """List the keys of a daemon.

    Operators and auditors see all keys; a front end sees the keys that it has a grant for, an owner those that belong to it.
    """
    if destroyed:
        past = [
            key
            for key in destroyed_keys_of(session)
            if any(name_patterns.matches(names, each.name) for each in key.names)
        ]
        session.output.show({"keys": past}, lambda: _destroyed(past))
        return
    keys = [key for key in keys_of(session) if name_patterns.matches(names, key.name)]
    session.output.show({"keys": keys}, lambda: _present(keys))


def _present(keys: list[KeyInfo]) -> RenderableType:
    heads = ["NAME", "TYPE", "PURPOSES", "TOKEN", "CERTIFICATE UNTIL", "LEFT"]
    rows = [
        [key.name, key.key_type, _grantable(key), key.token, when(key.certificate_not_after), time_left(key)]
        for key in keys
    ]
    if any(key.owner for key in keys):
        heads.append("OWNER")
        for row, key in zip(rows, keys, strict=True):
            row.append(owner_text(key.owner, removed=key.owner_removed))
    return table(heads, rows, whole=1)


def _destroyed(keys: list[PastKey]) -> RenderableType:
    rows = [
        (
            ", ".join(each.name for each in key.names),
            key.digest[:16],
            owner_text(key.owner, removed=key.owner_removed),
            when(key.made_at),
            when(key.destroyed_at),
        )
        for key in keys
    ]
    return table(("NAMES", "DIGEST", "OWNER", "MADE", "DESTROYED"), rows, whole=2)


def _grantable(key: KeyInfo) -> str:
    """The purposes of the key that can be granted to clients."""
    return ", ".join(purpose for purpose in key.purposes if not purpose.startswith("x509-"))
