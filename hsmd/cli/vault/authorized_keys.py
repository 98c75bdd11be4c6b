"""`hsmd vault authorized-keys`: the AuthorizedKeysCommand of an OpenSSH server."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import check as check_name
from hsmd.cli.base.output import note
from hsmd.cli.vault.check import ask
from hsmd.cli.vault.options import app


def _name_or_none(name: str) -> str:
    return check_name(name) if name else ""


@command(
    app,
    "authorized-keys",
    example="hsmd vault authorized-keys --profile /etc/hsmd/checker.toml anna ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI...",
)
def authorized_keys(
    session: Session,
    login: Annotated[
        str, typer.Argument(metavar="USER", help="%u of sshd_config(5): who logs in.", show_default=False)
    ],
    key_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="%t: type of the offered key.", show_default=False)
    ],
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="%k: the offered key in base64.", show_default=False)
    ],
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="NAME",
            help="Whose key it has to be. Default: the owner with the name of USER.",
            callback=_name_or_none,
        ),
    ] = "",
    record: Annotated[
        str, typer.Option("--record", metavar="RECORD", help="Only this record of the owner. Default: all.")
    ] = "",
    options: Annotated[
        str,
        typer.Option(
            "--options",
            metavar="TEXT",
            help='Options to print before the key, as in authorized_keys: restrict,command="..."',
        ),
    ] = "",
) -> None:
    """Print the offered key if the owner has deposited it and it is usable now; otherwise nothing, so that the login is refused.

    For sshd_config: AuthorizedKeysCommand /usr/bin/hsmd vault authorized-keys --profile /etc/hsmd/checker.toml %u %t %k, with
    AuthorizedKeysCommandUser set to a user who can read the profile. If there is no answer, nothing is printed, and the exit code
    is 1.
    """
    from hsmd.holder import public_key_forms

    line = f"{key_type} {key}"
    spki = public_key_forms.spki_of(line.encode())
    verdict, usable = _asked(session, owner or login, spki, record)
    if not usable:
        note(f"hsmd: {verdict}: the key is not accepted for {login}")
    printed = f"{options} {line}".strip() if usable else ""
    if printed or session.output.as_json:
        session.output.show({"usable": usable, "verdict": verdict, "line": printed}, lambda: printed)


def _asked(session: Session, owner: str, spki: bytes, record: str) -> tuple[str, bool]:
    """Verdict, and whether the key is usable. The name of a user of the host that is no name of an owner gets no answer."""
    try:
        check_name(owner)
    except typer.BadParameter:
        return "no-answer", False
    found = ask(session, owner, spki, record)
    return found.verdict.value, found.usable
