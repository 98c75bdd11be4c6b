"""`hsmd vault generate`: make a key and deposit it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC, check_directory
from hsmd.cli.vault.deposit_output import pem, show
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
from hsmd.cli.vault.owner import Owner, owner
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from hsmd.holder.deposits import KeyToDeposit

PRIVATE_TYPES = ("rsa-2048", "rsa-3072", "rsa-4096", "p-256", "p-384", "p-521", "ed25519", "x25519")
TOKEN_TYPES = PRIVATE_TYPES[:6]
"""Those that a token makes and wraps."""
SECRET_BYTES = {"aes-128": 16, "aes-192": 24, "aes-256": 32, "hmac-256": 32, "hmac-512": 64}


@command(
    app,
    "generate",
    example="hsmd vault generate www --type p-256 --public www.pub\n"
    "hsmd vault generate tickets --type aes-256 --not-after 30d\n"
    "hsmd vault generate sign --type rsa-3072 --token owner.toml",
)
def generate(
    session: Session,
    record: Record,
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"Private keys: {', '.join(PRIVATE_TYPES)}. Symmetric keys: {', '.join(SECRET_BYTES)}.",
        ),
    ] = "p-256",
    public: Annotated[
        Path | None,
        typer.Option("--public", metavar="FILE", help="Write the public key to this file, as PEM."),
    ] = None,
    not_before: NotBefore = "",
    not_after: NotAfter = "",
    max_uses: MaxUses = None,
    mode: ModeOption = "notify",
    token: TokenFile = None,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Make a key and deposit it: a new record, or the next version of one.

    With --token the key is made and sealed inside a token of yours, and exists nowhere outside of it but in the envelope; your
    management key must be RSA then. Without, it is made in the memory of this command.
    """
    from hsmd.holder import deposits

    at = now()
    wanted = terms(not_before, not_after, max_uses, mode, at)
    _check_type(kind, token)
    if public is not None:
        check_directory(public)
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        content = _made(mine, kind, token)
        statement, _ = deposits.put(mine.prover, mine.seen, content, record, wanted, at)
    if public is not None and content.spki:
        atomic_file.replace(public, pem(content.spki), PUBLIC)
    show(session, statement, content.spki, "")


def _check_type(kind: str, token: Path | None) -> None:
    if kind not in PRIVATE_TYPES and kind not in SECRET_BYTES:
        raise CommandError(
            f"--type: {kind!r} is none of {', '.join([*PRIVATE_TYPES, *SECRET_BYTES])}",
            "choose one of them",
            Exit.USAGE,
        )
    if token is not None and kind not in TOKEN_TYPES:
        raise CommandError(
            f"--type: a token does not make and wrap a key of the type {kind}",
            f"choose {', '.join(TOKEN_TYPES)}",
            Exit.USAGE,
        )


def _made(mine: Owner, kind: str, token: Path | None) -> KeyToDeposit:
    from hsmd.holder import brought_keys
    from hsmd.holder.deposits import PrivateKeyInMemory, SecretInMemory

    if token is not None:
        from hsmd.holder.token_keys import generate as generate_there

        return generate_there(mine.tokens.open(token), kind)
    if kind in SECRET_BYTES:
        return SecretInMemory(os.urandom(SECRET_BYTES[kind]))
    return PrivateKeyInMemory(brought_keys.generate(kind))
