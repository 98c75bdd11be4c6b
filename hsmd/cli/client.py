"""`hsmd client`: who may connect to a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import names, ssh_keys
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import ClientName, NewName
from hsmd.cli.base.output import fields, table, when
from hsmd.cli.base.paging import clients_of, revocations_of
from hsmd.protocol.messages import (
    ClientAdd,
    ClientDistrustCa,
    ClientEnroll,
    ClientInfo,
    ClientRemove,
    ClientRename,
    ClientRevoke,
    ClientTrustCa,
    Done,
    EnrolmentTicket,
    WantedGrant,
)
from hsmd.protocol.roles import Role

if TYPE_CHECKING:
    from rich.console import RenderableType

app = group(
    """Who may connect.

    A client is a name with OpenSSH keys, or with certificates of a trusted user CA. Its role says what it may do: front ends
    use keys they have a grant on, operators manage, auditors read."""
)


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


@command(
    app,
    "enroll",
    example="hsmd client enroll web1 --grant www\n"
    "hsmd client enroll web1 --grant www:tls13-server,tls12-server --address 10.9.0.1:7440\n"
    "hsmd client enroll bob --role operator",
)
def enroll(
    session: Session,
    name: ClientName,
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.FRONT_END,
    grant: Annotated[
        list[str],
        typer.Option(
            "--grant",
            metavar="KEY[:PURPOSE,...]",
            help="A key it may use, for tls-server unless said; may be repeated.",
        ),
    ] = [],  # noqa: B006
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS:PORT", help="Where it finds the daemon.")
    ] = "",
) -> None:
    """Make a one-time token with which a new front end, or an operator's laptop, lets itself in.

    The token is printed once, is good for 15 minutes and one use, and tells whoever has it how to reach this daemon and how
    to recognise it: hand it over as you would a password. On the other host: hsmd agent init --enroll -
    """
    from hsmd.client import parse_address

    if address:
        parse_address(address)  # or the other host would find out, with the token in its hands
    ticket = session.ask(
        ClientEnroll(name=name, role=role.value, grants=[_wanted(text) for text in grant], address=address),
        EnrolmentTicket,
    )
    there = "hsmd agent init --enroll -" if role is Role.FRONT_END else "hsmd enroll -"
    session.output.show(
        ticket,
        lambda: (
            f"{ticket.token}\n\nWithin 15 minutes, on the other host:  {there}\nand paste the line there."
        ),
    )


@command(app, "rename", example="hsmd client rename web1 web-fra-1")
def rename(session: Session, name: ClientName, new_name: NewName) -> None:
    """Give a client another name. Keys and grants stay with it; its open connections are closed.

    Its agent connects again once `client` in its agent.toml is the new name.
    """
    session.ask(ClientRename(name=name, new_name=new_name), Done)
    session.output.show({"renamed": name, "name": new_name}, lambda: f"{name} is called {new_name} now.")


@command(app, "distrust-ca", example="hsmd client distrust-ca user_ca.pub")
def distrust_ca(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="LINE|FILE", help="Public key of the CA.", show_default=False)
    ],
) -> None:
    """Accept no certificates of a CA any more. Connections made with them are closed at once.

    To keep it out even if somebody trusts it again, revoke its key as well: hsmd client revoke --key FILE.
    """
    line = ssh_keys.line_or_file(key)
    session.ask(ClientDistrustCa(public_key=line.line), Done)
    session.output.show({"distrusted": line.fingerprint}, lambda: f"{line.fingerprint} is trusted no more.")


@command(
    app,
    "revoke",
    example="hsmd client revoke --ca user_ca.pub --serial 17\n"
    "hsmd client revoke --ca user_ca.pub --key-id alice-laptop\nhsmd client revoke --key stolen.pub",
)
def revoke(
    session: Session,
    key: Annotated[
        str,
        typer.Option(
            "--key", "-k", metavar="LINE|FILE|SHA256:...", help="A public key, certified or not, or a CA's."
        ),
    ] = "",
    ca: Annotated[
        str, typer.Option("--ca", metavar="LINE|FILE|SHA256:...", help="The CA that issued the certificate.")
    ] = "",
    serial: Annotated[str, typer.Option("--serial", metavar="NUMBER", help="Certificates with it.")] = "",
    key_id: Annotated[str, typer.Option("--key-id", metavar="TEXT", help="Certificates with it.")] = "",
) -> None:
    """Refuse a key or certificates from now on, for ever. Connections made with them are closed at once."""
    request = ClientRevoke(fingerprint=_fingerprint(key), ca=_fingerprint(ca), serial=serial, key_id=key_id)
    done = session.ask(request, Done)
    said = "Revoked." if done.changed else "It was revoked already."
    session.output.show({"changed": done.changed}, lambda: said)


@command(app, "revoked", example="hsmd client revoked")
def revoked(session: Session) -> None:
    """List the keys and certificates that are refused."""
    found = revocations_of(session)
    rows = [(each.kind, each.value, each.ca, when(each.created_at)) for each in found]
    session.output.show({"revocations": found}, lambda: table(("KIND", "VALUE", "CA", "SINCE"), rows))


@command(app, "trust-ca", example="hsmd client trust-ca user_ca.pub --client web1 --client web2")
def trust_ca(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="LINE|FILE", help="Public key of the CA.", show_default=False)
    ],
    client: Annotated[
        list[str], typer.Option("--client", "-c", metavar="NAME", help="For this client; may be repeated.")
    ] = [],  # noqa: B006
    max_hours: Annotated[
        int,
        typer.Option(
            "--max-hours", min=0, max=10 * 366 * 24, help="Refuse certificates valid for longer; 0 for any."
        ),
    ] = 24,
) -> None:
    """Accept OpenSSH user certificates of a CA, for the named clients only.

    A certificate must name exactly one principal, which is user name and client name at once, and be valid for a day at
    most unless --max-hours says otherwise.
    """
    if not client:
        raise CommandError(
            "no client is named", "add --client NAME; a CA is never trusted for everybody", Exit.USAGE
        )
    done = session.ask(
        ClientTrustCa(
            public_key=ssh_keys.line_or_file(key).line, clients=client, max_lifetime_s=max_hours * 3_600
        ),
        Done,
    )
    people = f"Certificates of this CA are accepted for {', '.join(client)}."
    session.output.show({"clients": client, "changed": done.changed}, lambda: people)


def _fingerprint(text: str) -> str:
    """Of a public key line or file; a fingerprint is taken as it is."""
    return ssh_keys.line_or_file(text).fingerprint if text and not text.startswith("SHA256:") else text


def _wanted(text: str) -> WantedGrant:
    key, _, purposes = text.partition(":")
    return WantedGrant(key=names.check(key), purposes=(purposes or "tls-server").split(","))


def _describe(info: ClientInfo) -> RenderableType:
    return fields(
        [
            ("name", info.name),
            ("role", info.role),
            ("keys", "\n".join(info.fingerprints) or "(certificates only)"),
            ("since", when(info.created_at)),
        ]
    )
