"""`hsmd grant`: the keys and purposes that clients may use."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed
from hsmd.cli.base.names import ClientName, KeyName
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import grants_of
from hsmd.protocol.messages import Done, Explanation, GrantAdd, GrantExplain, GrantInfo, GrantRemove

app = group(
    """Grants: the keys that a client may use, and for which purposes.

    A grant names a client, a key and purposes. It cannot exceed the purposes of the key."""
)


@command(
    app, "add", example="hsmd grant add web1 www\nhsmd grant add web1 legacy --purpose tls12-rsa-premaster"
)
def add(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[
        list[str],
        typer.Option("--purpose", "-p", metavar="PURPOSE", help="Permitted purpose; may be repeated."),
    ] = ["tls-server"],  # noqa: B006  read only
) -> None:
    """Allow a client to use a key for these purposes, in addition to those already granted."""
    info = session.ask(GrantAdd(client=client, key=key, purposes=purpose), GrantInfo)
    text = f"{info.client} may use {info.key} for {', '.join(info.purposes)}."
    session.output.show(info, lambda: text)


@command(app, "list", example="hsmd grant list\nhsmd grant list --client web1")
def list_grants(
    session: Session,
    client: Annotated[
        str, typer.Option("--client", metavar="NAME", help="Only grants of this client.", show_default=False)
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="NAME", help="Only grants for this key.", show_default=False)
    ] = "",
) -> None:
    """List all grants, or those of one client or for one key."""
    grants = grants_of(session, client, key)
    rows = [(grant.client, grant.key, ", ".join(grant.purposes)) for grant in grants]
    session.output.show({"grants": grants}, lambda: table(("CLIENT", "KEY", "PURPOSES"), rows))


@command(
    app, "remove", example="hsmd grant remove web1 www\nhsmd grant remove web1 www --purpose tls12-server"
)
def remove(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[
        list[str],
        typer.Option(
            "--purpose", "-p", metavar="PURPOSE", help="Purpose to remove; may be repeated. Default: all."
        ),
    ] = [],  # noqa: B006  read only
) -> None:
    """Remove purposes from a grant, or the whole grant. This also applies to open connections at once."""
    done = session.ask(GrantRemove(client=client, key=key, purposes=purpose), Done)
    what = ", ".join(purpose) or "any purpose"
    text = (
        f"{client} may no longer use {key} for {what}."
        if done.changed
        else f"{client} has no such grant for {key}; nothing was changed."
    )
    session.output.show({"client": client, "key": key, "changed": done.changed}, lambda: text)


@command(app, "explain", example="hsmd grant explain web1 www tls13-server")
def explain(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[
        str, typer.Argument(metavar="PURPOSE", help="The purpose to check.", show_default=False)
    ],
) -> None:
    """Show whether a client may use a key for a purpose, and which rule decides.

    A front end only receives "refused"; this command shows operators the reason. Exit code 4 means refused.
    """
    explanation = session.ask(GrantExplain(client=client, key=key, purpose=purpose), Explanation)
    verdict = "allowed" if explanation.allowed else "refused"
    rule, _, reason = explanation.rule.partition(": ")
    session.output.show(explanation, lambda: f"{verdict} ({rule}): {reason}")
    if not explanation.allowed:
        raise CheckFailed
