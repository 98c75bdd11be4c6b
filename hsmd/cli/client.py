"""`hsmd client`: who may connect to a daemon."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli import ssh_keys
from hsmd.cli.commands import command, group
from hsmd.cli.connection import Session
from hsmd.cli.failures import Exit, Stop
from hsmd.cli.names import ClientName
from hsmd.cli.output import fields, table, when
from hsmd.cli.paging import clients_of
from hsmd.protocol.messages import ClientAdd, ClientInfo, ClientRemove, ClientTrustCa, Done

if TYPE_CHECKING:
    from rich.console import RenderableType

app = group(
    """Who may connect.

    A client is a name with OpenSSH keys, or with certificates of a trusted user CA. Its role says what it may do: front ends
    use keys they have a grant on, operators manage, auditors read."""
)


class Role(Enum):
    """Roles of clients."""

    FRONT_END = "front-end"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@command(
    app,
    "add",
    example="hsmd client add web1 --key 'ssh-ed25519 AAAAC3Nza...'\nhsmd client add alice --role operator --key alice.pub",
)
def add(
    session: Session,
    name: ClientName,
    key: Annotated[
        str,
        typer.Option("--key", "-k", metavar="LINE|FILE", help="Its OpenSSH public key.", show_default=False),
    ] = "",
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.FRONT_END,
) -> None:
    """Add a client, or a further key for one that is there.

    Without --key the client comes with certificates only (see trust-ca). One key belongs to one client.
    """
    line = ssh_keys.line_or_file(key).line if key else ""
    info = session.ask(ClientAdd(name=name, role=role.value, public_key=line), ClientInfo)
    session.output.show(info, lambda: _describe(info))


@command(app, "list", example="hsmd client list")
def list_clients(session: Session) -> None:
    """List the clients with their roles and key fingerprints."""
    clients = clients_of(session)
    rows = [
        (client.name, client.role, "\n".join(client.fingerprints), when(client.created_at))
        for client in clients
    ]
    session.output.show({"clients": clients}, lambda: table(("NAME", "ROLE", "KEYS", "SINCE"), rows))


@command(app, "remove", example="hsmd client remove web1")
def remove(session: Session, name: ClientName) -> None:
    """Remove a client with its keys and grants; its open connections are closed."""
    done = session.ask(ClientRemove(name=name), Done)
    session.output.show({"removed": name, "changed": done.changed}, lambda: f"Removed {name}.")


@command(app, "trust-ca", example="hsmd client trust-ca user_ca.pub --client web1 --client web2")
def trust_ca(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="LINE|FILE", help="Public key of the CA.", show_default=False)
    ],
    client: Annotated[
        list[str], typer.Option("--client", "-c", metavar="NAME", help="For this client; may be repeated.")
    ] = [],  # noqa: B006
) -> None:
    """Accept OpenSSH user certificates of a CA, for the named clients only.

    A certificate must name exactly one principal, which is user name and client name at once.
    """
    if not client:
        raise Stop("no client is named", "add --client NAME; a CA is never trusted for everybody", Exit.USAGE)
    done = session.ask(ClientTrustCa(public_key=ssh_keys.line_or_file(key).line, clients=client), Done)
    people = f"Certificates of this CA are accepted for {', '.join(client)}."
    session.output.show({"clients": client, "changed": done.changed}, lambda: people)


def _describe(info: ClientInfo) -> RenderableType:
    return fields(
        [
            ("name", info.name),
            ("role", info.role),
            ("keys", "\n".join(info.fingerprints) or "(certificates only)"),
            ("since", when(info.created_at)),
        ]
    )
