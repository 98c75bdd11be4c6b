"""`hsmd vault put`: deposit a key that you have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.vault.deposit_output import show
from hsmd.cli.vault.key_input import from_file, secret_from_file
from hsmd.cli.vault.options import (
    ManagementKeyFile,
    MaxUses,
    ModeOption,
    NotAfter,
    NotBefore,
    Opened,
    PassphraseFd,
    Record,
    TokenFile,
    app,
    now,
    terms,
)
from hsmd.cli.vault.owner import Owner, owner, protect
from hsmd.cli.vault.wrapped_input import wrapped_key

if TYPE_CHECKING:
    from hsmd.holder.deposits import KeyToDeposit


@command(
    app,
    "put",
    example="hsmd vault put www www.pem --not-after 90d --max-uses 10 --mode deny\n"
    "hsmd vault put mail mail.p12\n"
    "hsmd vault put session session.key --secret hex\n"
    "hsmd vault put sign --token owner.toml --label signing-key\n"
    "hsmd vault put www --wrapped www.wrapped --public www.pub",
)
def put(
    session: Session,
    record: Record,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="File of the key: PEM, PKCS#12 or PKCS#8, encrypted or not; - for standard input.",
            show_default=False,
        ),
    ] = None,
    not_before: NotBefore = "",
    not_after: NotAfter = "",
    max_uses: MaxUses = None,
    mode: ModeOption = "notify",
    secret: Annotated[
        str,
        typer.Option(
            "--secret",
            metavar="ENCODING",
            help="FILE holds a symmetric key, as raw, hex or base64.",
            show_default=False,
        ),
    ] = "",
    token: TokenFile = None,
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="LABEL", help="With --token: label of the key in it.", show_default=False
        ),
    ] = "",
    wrapped: Annotated[
        Path | None,
        typer.Option(
            "--wrapped",
            metavar="FILE",
            help="A key that other software has wrapped to your RSA wrapping key: RSA-OAEP of an AES-256 key, then AES-KWP of "
            "the key; - for standard input.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="With --wrapped: rsa-oaep-sha256-aes256-kwp or rsa-oaep-sha1-aes256-kwp. Default: that of your management key.",
            show_default=False,
        ),
    ] = "",
    public: Annotated[
        Path | None,
        typer.Option(
            "--public",
            metavar="FILE",
            help="With --wrapped: the public half of the private key in it, or its certificate.",
            show_default=False,
        ),
    ] = None,
    key_passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--key-passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of FILE from here.",
            show_default=False,
        ),
    ] = None,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Deposit a key: a new record, or the next version of one.

    It is sealed here, to your management key; the daemon gets the envelope and the public half, and proof that you have the
    private one. A key in a token of yours is sealed inside the token, if it is extractable and your management key is RSA.
    A wrapped key of other software is opened here, compared with its public half, and sealed as every other one.
    Destroy the file afterwards if the vault is to be the only place of the key.
    """
    from hsmd.holder import deposits

    at = now()
    wanted = terms(not_before, not_after, max_uses, mode, at)
    if sum(each is not None for each in (file, token, wrapped)) != 1:
        raise CommandError(
            "name one of FILE, --token with --label, and --wrapped", "see: hsmd vault put --help", Exit.USAGE
        )
    if wrapped is None and (suite or public is not None):
        raise CommandError(
            "--suite and --public say what --wrapped is",
            "leave them out, or name the file with --wrapped",
            Exit.USAGE,
        )
    if token is not None and (not label or secret):
        raise CommandError(
            "--token needs --label, and takes no --secret", "name the key in the token", Exit.USAGE
        )
    protect()
    in_file = _in_file(file, secret, key_passphrase_fd) if file is not None else None
    blob = wrapped_key(wrapped, suite, public, secret) if wrapped is not None else None
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        content = blob.opened(mine.key) if blob is not None else in_file or _in_token(mine, token, label)
        statement, _ = deposits.put(mine.prover, mine.seen, content, record, wanted, at)
    hint = f"Next: destroy the file, for example: shred -u {file}" if file is not None else ""
    show(session, statement, content.spki, hint)


def _in_token(mine: Owner, token: Path | None, label: str) -> KeyToDeposit:
    from hsmd.holder.token_keys import find

    assert token is not None, "there is no file"
    return find(mine.tokens.open(token), label)


def _in_file(file: Path, secret: str, passphrase_fd: int | None) -> KeyToDeposit:
    """Before the management key is asked for: a file that cannot be used is told first."""
    from hsmd.holder.deposits import PrivateKeyInMemory, SecretInMemory

    if secret:
        return SecretInMemory(secret_from_file(file, secret))
    return PrivateKeyInMemory(from_file(file, passphrase_fd))
