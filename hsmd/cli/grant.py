"""`hsmd grant`: which client may use which key for what."""

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
    """Who may use which key for what.

    A grant names a client, a key and purposes. It never goes beyond the purposes that the key was made for."""
)


@command(
    app, "add", example="hsmd grant add web1 www\nhsmd grant add web1 legacy --purpose tls12-rsa-premaster"
)
def add(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[
        list[str], typer.Option("--purpose", "-p", metavar="PURPOSE", help="For this; may be repeated.")
    ] = ["tls-server"],  # noqa: B006  read only
) -> None:
    """Let a client use a key for these purposes, in addition to what it may already."""
    info = session.ask(GrantAdd(client=client, key=key, purposes=purpose), GrantInfo)
    people = f"{info.client} may use {info.key} for {', '.join(info.purposes)}."
    session.output.show(info, lambda: people)


@command(app, "list", example="hsmd grant list\nhsmd grant list --client web1")
def list_grants(
    session: Session,
    client: Annotated[
        str, typer.Option("--client", metavar="NAME", help="Of this client.", show_default=False)
    ] = "",
    key: Annotated[str, typer.Option("--key", metavar="NAME", help="On this key.", show_default=False)] = "",
) -> None:
    """List grants: all, or those of one client or on one key."""
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
        list[str], typer.Option("--purpose", "-p", metavar="PURPOSE", help="Only this; may be repeated.")
    ] = [],  # noqa: B006  read only
) -> None:
    """Take a grant back: the named purposes, or all of them. Open connections notice at once."""
    done = session.ask(GrantRemove(client=client, key=key, purposes=purpose), Done)
    what = ", ".join(purpose) or "anything"
    people = (
        f"{client} may not use {key} for {what} any more." if done.changed else "There was no such grant."
    )
    session.output.show({"client": client, "key": key, "changed": done.changed}, lambda: people)


@command(app, "explain", example="hsmd grant explain web1 www tls13-server")
def explain(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[str, typer.Argument(metavar="PURPOSE", help="For what.", show_default=False)],
) -> None:
    """Say whether a client may use a key for a purpose, and which rule decides.

    Front ends are only ever told "refused"; this is where an operator learns why. Exit code 4 means that it is refused.
    """
    explanation = session.ask(GrantExplain(client=client, key=key, purpose=purpose), Explanation)
    verdict = "allowed" if explanation.allowed else "refused"
    session.output.show(explanation, lambda: f"{verdict}: {explanation.rule}")
    if not explanation.allowed:
        raise CheckFailed
