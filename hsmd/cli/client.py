"""`hsmd client`: the clients of a daemon, the user CAs it trusts, and revocations."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsmd.cli.base import names, server_purposes, ssh_keys
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session, endpoint
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import ClientName, NewName
from hsmd.cli.base.output import fields, note, table, table_with_lines, when
from hsmd.cli.base.paging import clients_of, revocations_of
from hsmd.protocol.messages import (
    ClientAdd,
    ClientDistrustCa,
    ClientEnroll,
    ClientInfo,
    ClientRemove,
    ClientRename,
    ClientRevoke,
    ClientRoleAdd,
    ClientRoleRemove,
    ClientTrustCa,
    Done,
    EnrolmentTicket,
    WantedGrant,
)
from hsmd.protocol.messages.enumerations import ROLE
from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role, in_order

if TYPE_CHECKING:
    from rich.console import RenderableType

app = group(
    """Clients of the daemon.

    A client is a name with OpenSSH keys, or with certificates of a trusted user CA. Its roles determine what it may do: front
    ends use the keys that they have grants for, operators manage the daemon, auditors read."""
)
role_app = group(
    """Roles of clients.

    A client has one or several roles, and may do what any of them allows. An operator cannot be a depositary, because what takes
    both must take two parties. `hsmd client list` shows the roles of each client.

    """
    + "\n\n".join(f"{role}: {meaning}." for role, meaning in ROLE.values.items())
)
app.add_typer(role_app, name="role")

Roles = Annotated[list[Role], typer.Option("--role", help="Role of the client; may be repeated.")]
OneRole = Annotated[
    Role, typer.Argument(metavar="ROLE", help="The role; see `hsmd client role --help`.", show_default=False)
]


@command(
    app,
    "add",
    example="hsmd client add web1 --key 'ssh-ed25519 AAAAC3Nza...'\nhsmd client add alice --role operator --key alice.pub\n"
    "hsmd client add bob --role owner --role checker --key bob.pub",
)
def add(
    session: Session,
    name: ClientName,
    key: Annotated[
        str,
        typer.Option(
            "--key", "-k", metavar="LINE|FILE", help="OpenSSH public key of the client.", show_default=False
        ),
    ] = "",
    role: Roles = [Role.FRONT_END],  # noqa: B006
) -> None:
    """Add a client, or another key for an existing one.

    Without --key the client can only log in with certificates (see trust-user-ca). A key belongs to one client only.
    """
    line = ssh_keys.line_or_file(key).line if key else ""
    info = session.ask(ClientAdd(name=name, public_key=line, **_members(role)), ClientInfo)
    session.output.show(info, lambda: _describe(info))


@command(app, "list", example="hsmd client list")
def list_clients(session: Session) -> None:
    """List the clients with their roles, their state at this daemon, and their key fingerprints.

    A client is connected to one daemon at a time; it was last seen since this daemon started, or not at all. In a terminal that
    is too narrow, the keys are on lines of their own.
    """
    clients = clients_of(session)
    rows = [
        (
            client.name,
            ", ".join(client.roles),
            _state(client),
            when(client.last_seen),
            ", ".join(_keys(client)),
        )
        for client in clients
    ]
    headers = ("NAME", "ROLES", "STATE", "LAST SEEN", "KEYS")
    keys = [_keys(client) for client in clients]
    session.output.show({"clients": clients}, lambda: table_with_lines(headers, rows, keys))


def _state(client: ClientInfo) -> str:
    """What an operator may have to know first."""
    if client.connections:
        return "connected" if client.connections == 1 else f"connected ({client.connections})"
    if client.fingerprints and len(client.revoked) == len(client.fingerprints):
        return "revoked"
    if client.invited_until is not None:
        return f"invited until {client.invited_until.astimezone(UTC):%H:%M}Z"
    return "not connected"


def _keys(client: ClientInfo) -> list[str]:
    return [f"{key} (revoked)" if key in client.revoked else key for key in client.fingerprints]


@command(app, "remove", example="hsmd client remove web1")
def remove(session: Session, name: ClientName) -> None:
    """Remove a client with its keys and grants, and close its connections."""
    done = session.ask(ClientRemove(name=name), Done)
    session.output.show({"removed": name, "changed": done.changed}, lambda: f"Removed {name}.")


@command(app, "rename", example="hsmd client rename web1 web-fra-1")
def rename(session: Session, name: ClientName, new_name: NewName) -> None:
    """Rename a client. It keeps its keys and grants; its connections are closed.

    Its agent can connect again after `client` in its agent.toml has been changed to the new name.
    """
    session.ask(ClientRename(name=name, new_name=new_name), Done)
    session.output.show({"renamed": name, "name": new_name}, lambda: f"Renamed {name} to {new_name}.")


@command(
    app,
    "enroll",
    example="hsmd client enroll web1 --grant www\n"
    "hsmd client enroll web1 --grant www:tls13-server --address 10.9.0.1:7440\n"
    "hsmd client enroll bob --role operator",
)
def enroll(
    session: Session,
    name: ClientName,
    role: Roles = [Role.FRONT_END],  # noqa: B006
    grant: Annotated[
        list[str],
        typer.Option(
            "--grant",
            metavar="KEY[:PURPOSE,...]",
            help="Grant the use of a key, by default for those of tls-server that it has; may be repeated.",
        ),
    ] = [],  # noqa: B006
    address: Annotated[
        str,
        typer.Option(
            "--address", metavar="ADDRESS:PORT", help="Address at which the client reaches the daemon."
        ),
    ] = "",
) -> None:
    """Create a one-time token with which a new client registers its own key.

    Use it on a new front end with `hsmd agent init --enroll -`, on a node with `hsmd node init --enroll -`, and for all others
    with `hsmd enroll -`. The token is printed once and valid for 15 minutes and one use. It identifies this daemon and
    authorises the new client: treat it like a password.
    """
    from hsmd.client import parse_address

    if address:
        parse_address(address)  # report an invalid address here rather than on the other host
    ticket = session.ask(
        ClientEnroll(
            name=name, grants=[_wanted(session, text) for text in grant], address=address, **_members(role)
        ),
        EnrolmentTicket,
    )
    there = "hsmd enroll -"
    if AT_OPERATOR_ADDRESSES.isdisjoint(role):
        there = "hsmd agent init --enroll -" if Role.FRONT_END in role else there
        there = "hsmd node init --enroll -" if Role.NODE in role else there
    session.output.show(ticket, lambda: ticket.token)
    if not session.output.as_json:
        note(f"Within 15 minutes, run `{there}` on the other host and paste this line.")


@command(role_app, "add", example="hsmd client role add bob checker")
def add_role(session: Session, name: ClientName, role: OneRole) -> None:
    """Give a client a further role.

    The client has it on the connections that it opens from then on.
    """
    done = session.ask(ClientRoleAdd(name=name, role=role.value), Done)
    result = "now has" if done.changed else "already had"
    document = {"client": name, "role": role.value, "changed": done.changed}
    session.output.show(document, lambda: f"{name} {result} the role {role.value}.")


@command(role_app, "remove", example="hsmd client role remove bob checker")
def remove_role(session: Session, name: ClientName, role: OneRole) -> None:
    """Take a role from a client, and close the connections that have it.

    With the role front-end, the client loses its grants.
    """
    done = session.ask(ClientRoleRemove(name=name, role=role.value), Done)
    result = "no longer has" if done.changed else "did not have"
    document = {"client": name, "role": role.value, "changed": done.changed}
    session.output.show(document, lambda: f"{name} {result} the role {role.value}.")


@command(
    app,
    "trust-user-ca",
    example="hsmd client trust-user-ca user_ca.pub --client web1 --client web2",
    old_name="trust-ca",
)
def trust_user_ca(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="LINE|FILE", help="Public key of the user CA.", show_default=False)
    ],
    client: Annotated[
        list[str],
        typer.Option(
            "--client",
            "-c",
            metavar="NAME",
            help="Client that may use certificates of this CA; may be repeated.",
        ),
    ] = [],  # noqa: B006
    max_hours: Annotated[
        int,
        typer.Option(
            "--max-hours",
            min=0,
            max=10 * 366 * 24,
            help="Longest accepted validity of a certificate; 0 for any.",
        ),
    ] = 24,
) -> None:
    """Accept OpenSSH user certificates of a CA, only for the named clients.

    A certificate must have exactly one principal, the name of the client, and its validity must not exceed --max-hours.
    """
    if not client:
        raise CommandError(
            "no client is named", "add --client NAME; a CA is never trusted for all clients", Exit.USAGE
        )
    done = session.ask(
        ClientTrustCa(
            public_key=ssh_keys.line_or_file(key).line, clients=client, max_lifetime_s=max_hours * 3_600
        ),
        Done,
    )
    text = f"Certificates of this CA are accepted for {', '.join(client)}."
    session.output.show({"clients": client, "changed": done.changed}, lambda: text)


@command(app, "distrust-user-ca", example="hsmd client distrust-user-ca user_ca.pub", old_name="distrust-ca")
def distrust_user_ca(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="LINE|FILE", help="Public key of the user CA.", show_default=False)
    ],
) -> None:
    """Stop accepting certificates of a user CA, and close connections made with them.

    To refuse the CA even if it is trusted again later, also revoke its key: hsmd client revoke --key FILE.
    """
    line = ssh_keys.line_or_file(key)
    session.ask(ClientDistrustCa(public_key=line.line), Done)
    session.output.show({"distrusted": line.fingerprint}, lambda: f"{line.fingerprint} is no longer trusted.")


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
            "--key", "-k", metavar="LINE|FILE|SHA256:...", help="Public key of a client or of a user CA."
        ),
    ] = "",
    ca: Annotated[
        str, typer.Option("--ca", metavar="LINE|FILE|SHA256:...", help="User CA that issued the certificate.")
    ] = "",
    serial: Annotated[
        str, typer.Option("--serial", metavar="NUMBER", help="Serial number of the certificate.")
    ] = "",
    key_id: Annotated[str, typer.Option("--key-id", metavar="TEXT", help="Key ID of the certificate.")] = "",
) -> None:
    """Refuse a key or certificates permanently, and close connections made with them.

    Give either --key, or --ca with --serial or --key-id.
    """
    if bool(key) == bool(ca) or (bool(serial) + bool(key_id)) != bool(ca):
        raise CommandError(
            "the options do not select one credential", "give either --key, or --ca with --serial or --key-id"
        )
    request = ClientRevoke(fingerprint=_fingerprint(key), ca=_fingerprint(ca), serial=serial, key_id=key_id)
    done = session.ask(request, Done)
    result = "Revoked." if done.changed else "It was already revoked."
    session.output.show({"changed": done.changed}, lambda: result)


@command(
    app,
    "rotate-key",
    example="hsmd client rotate-key\nhsmd client rotate-key --profile ~/.config/hsmd/fra.toml",
)
def rotate_key(session: Session) -> None:
    """Replace your own SSH key, which your profile names, with a new one.

    All daemons that share the store know it then. Run the command again if it was interrupted. For an agent, see `hsmd agent
    rotate-key`; for a key that was stolen, `hsmd client revoke`.
    """
    from hsmd.cli.base import key_rotation

    profile = session.profile()
    key = key_rotation.rotate([endpoint(profile)], f"{profile.user}, client of hsmd")
    session.output.show({"public_key": key.line}, lambda: f"Your key is now {key.fingerprint}.")
    if not session.output.as_json:
        note(
            "If agents accept declarations of discontinuities by your old key (operator_keys in agent.toml), add the new one."
        )


@command(app, "revoked", example="hsmd client revoked")
def revoked(session: Session) -> None:
    """List the keys and certificates that have been revoked."""
    found = revocations_of(session)
    rows = [(each.kind, each.value, each.ca, when(each.created_at)) for each in found]
    session.output.show({"revocations": found}, lambda: table(("KIND", "VALUE", "CA", "SINCE"), rows))


def _members(roles: list[Role]) -> dict[str, Any]:
    """The members of a request that hold these roles; releases with one role per client know only `role`."""
    names = [role.value for role in in_order(roles)]
    return {"role": names[0], "role_set": names if len(names) > 1 else []}


def _fingerprint(text: str) -> str:
    """The fingerprint of a public key line or file; a fingerprint is returned unchanged."""
    return ssh_keys.line_or_file(text).fingerprint if text and not text.startswith("SHA256:") else text


def _wanted(session: Session, text: str) -> WantedGrant:
    key, _, purposes = text.partition(":")
    name = names.check(key)
    return WantedGrant(
        key=name, purposes=purposes.split(",") if purposes else server_purposes.of_key(session, name)
    )


def _describe(info: ClientInfo) -> RenderableType:
    return fields(
        [
            ("name", info.name),
            ("roles", ", ".join(info.roles)),
            ("keys", ", ".join(info.fingerprints) or "(certificates only)"),
            ("since", when(info.created_at)),
        ]
    )
