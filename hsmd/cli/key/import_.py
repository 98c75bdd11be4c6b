"""`hsmd key import`: import a private key from a PEM file into the token, on the token's own host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import note
from hsmd.cli.key.options import Owner, Purposes, Token, app
from hsmd.errors import HsmdError, NotFound
from hsmd.protocol.messages import (
    KeyAdopt,
    KeyInfo,
    KeyShow,
)

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config, TokenConfig


@command(
    app,
    "import",
    example="sudo hsmd key import www private.pem --config /etc/hsmd/hsmd.toml\n"
    "hsmd key import www encrypted.pem --passphrase-file passphrase",
)
def import_pem(
    session: Session,
    name: KeyName,
    pem: Annotated[
        Path, typer.Argument(metavar="PEM", help="PEM file with the private key.", show_default=False)
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="File with the passphrase of an encrypted PEM file."
        ),
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Configuration of the daemon, for module and PIN."
        ),
    ] = Path("hsmd.toml"),
    purpose: Purposes = ["tls-server"],  # noqa: B006  read only
    token: Token = "",
    owner: Owner = "",
    accept_weak: Annotated[
        bool,
        typer.Option("--accept-weak", help="Import a key that others could find; it is recorded why."),
    ] = False,
) -> None:
    """Import a private key from a PEM file into the token.

    Run the command on the token's own host, as a user with read access to the daemon's configuration and the PIN: the key is
    written directly to the token and never sent over the network. Destroy the file afterwards. The key is only as safe as the
    file was. Keys that are known to be weak are refused: a small public exponent, close primes, small private values, ROCA.
    """
    with session.output.working("importing the key into the token"):
        info = import_key(
            session,
            name,
            pem,
            passphrase_file,
            config.absolute(),
            token,
            purpose,
            owner,
            accept_weak=accept_weak,
        )
    session.output.show(info, lambda: describe(info))
    if not session.output.as_json:
        note(f"Next: destroy the file, for example: shred -u {pem}")


def import_key(
    session: Session,
    name: str,
    pem: Path,
    passphrase: Path | None,
    config_file: Path,
    token_name: str,
    purposes: Sequence[str],
    owner: str = "",
    *,
    accept_weak: bool = False,
) -> KeyInfo:
    """Import the key with a separate worker process, then have the daemon adopt it. Raises HsmdError or CommandError.

    This process opens the PEM file and only the worker reads it; the daemon never receives its content.
    """
    from hsmd.daemon.config import reader as configuration
    from hsmd.daemon.ipc import key_import
    from hsmd.daemon.ipc.import_turn import import_turn
    from hsmd.daemon.ipc.worker_settings import worker_settings

    config = configuration.load(config_file)
    token = _token(config, token_name)
    _check_name_is_free(session, name)
    settings = worker_settings(config, token, control=True)
    with import_turn(settings.token):
        described = key_import.import_key(
            settings,
            environment=dict(token.environment),
            pem=pem,
            passphrase=passphrase,
            name=name,
            purposes=purposes,
            accept_weak=accept_weak,
        )
        request = KeyAdopt(
            name=name,
            token=token.name,
            cka_id=described.cka_id,
            owner=owner,
            weaknesses=described.warnings,
        )
        return _adopt(session, request)


def _adopt(session: Session, request: KeyAdopt) -> KeyInfo:
    """Have the daemon serve a key that is in the token now. Raises CommandError, with the command that repeats it."""
    try:
        return session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    except HsmdError as error:
        what = f"the key is in the token, but the daemon does not serve it yet: {error.text}"
        belongs = f" --owner {request.owner}" if request.owner else ""
        again = f"hsmd key adopt {request.name} --id {request.cka_id}{belongs}"
        raise CommandError(what, f"fix this, then: {again}") from error


def _check_name_is_free(session: Session, name: str) -> None:
    """Fail early if the name is taken or the daemon is unreachable, before the token is changed."""
    try:
        session.ask(KeyShow(name), KeyInfo)
    except NotFound:
        return
    raise CommandError(f"a key {name} exists already", "choose another name")


def _token(config: Config, name: str) -> TokenConfig:
    if not name and len(config.tokens) == 1:
        return config.tokens[0]
    for token in config.tokens:
        if token.name == name:
            return token
    names = ", ".join(token.name for token in config.tokens)
    raise CommandError(f"{config.path} has the tokens {names}", "select one with --token", Exit.USAGE)
