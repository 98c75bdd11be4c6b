"""`hsmd vault get`: take a key out of the vault."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PRIVATE, exists, write_new
from hsmd.cli.base.output import fields, note
from hsmd.cli.vault import passphrases
from hsmd.cli.vault.options import (
    ManagementKeyFile,
    OldManagementKey,
    OldPassphraseFd,
    Opened,
    PassphraseFd,
    Record,
    VersionOption,
    app,
)
from hsmd.cli.vault.owner import Owner, owner

if TYPE_CHECKING:
    from hsmd.holder.acquisitions import Acquired
    from hsmd.protocol.messages import VaultVersion

NO_LIMIT = -1


@command(
    app,
    "get",
    example="hsmd vault get www --output www.pem\n"
    "hsmd vault get www --stdout | openssl pkey -pubout\n"
    "hsmd vault get sign --into-token owner.toml --label sign\n"
    "hsmd vault get www --bare www.wrapped",
)
def get(
    session: Session,
    record: Record,
    version: VersionOption = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it to this new file, which only you can read."
        ),
    ] = None,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Write it to standard output, unless that is a terminal.")
    ] = False,
    into_token: Annotated[
        Path | None,
        typer.Option(
            "--into-token",
            metavar="FILE",
            help="Keep it in the token that this file names, to sign. If your management key is an RSA key of the same token, it "
            "never is in the memory of this command.",
        ),
    ] = None,
    bare: Annotated[
        Path | None,
        typer.Option(
            "--bare",
            metavar="FILE",
            help="Write it to this new file as it is wrapped, for other software that has your RSA wrapping key: RSA-OAEP of an "
            "AES-256 key, then AES-KWP of the key. It is not opened here.",
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option("--label", metavar="LABEL", help="With --into-token: its label there. Default: RECORD."),
    ] = "",
    der: Annotated[
        bool, typer.Option("--der", help="Write a private key as PKCS#8 in DER instead of PEM.")
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Encrypt a private key in FILE with a passphrase that is asked for."),
    ] = False,
    key_passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--key-passphrase-fd",
            metavar="N",
            min=0,
            help="With --encrypt: read that passphrase from here.",
            show_default=False,
        ),
    ] = None,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    old_key: OldManagementKey = None,
    old_passphrase_fd: OldPassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Take a key out of the vault, to a file, to standard output or into a token of yours.

    The daemon counts the use before it answers. Your signed statement is verified first: it names the envelope, the limits
    and the public key, and one that is older than this machine has seen is refused. How many uses are left is shown.

    Private keys come as PKCS#8, symmetric ones as their bytes.
    """
    from hsmd.holder import acquisitions
    from hsmd.holder.changes import version_of

    target = _Target(session, output, stdout, into_token, label or record, bare)
    if bare is not None and (der or encrypt):
        raise CommandError(
            "--bare writes the key as it is wrapped", "leave --der and --encrypt out", Exit.USAGE
        )
    passphrase = _new_passphrase(encrypt, key_passphrase_fd, output)
    former = old_key, old_passphrase_fd
    with owner(session, management_key, passphrase_fd, opened=opened, former=former) as mine:
        target.prepare(mine)
        target.check(mine, version_of(mine.prover, record, version), der=der, encrypt=encrypt)
        acquired = acquisitions.get(mine.prover, mine.seen, record, version, former=mine.former)
        where = target.deliver(mine, acquired, der=der, passphrase=passphrase)
    _report(session, acquired, where, quiet=stdout)


class _Target:
    """Where the key goes. Raises CommandError unless it is exactly one place, and a free one, before anything is asked."""

    def __init__(
        self,
        session: Session,
        file: Path | None,
        stdout: bool,
        token: Path | None,
        label: str,
        bare: Path | None,
    ) -> None:
        if sum([file is not None, stdout, token is not None, bare is not None]) != 1:
            raise CommandError(
                "choose one of --output, --stdout, --into-token and --bare",
                "see: hsmd vault get --help",
                Exit.USAGE,
            )
        for path in (file, bare):
            if path is not None:
                _check_writable(path)
        if stdout and sys.stdout.isatty():
            raise CommandError(
                "a private key is not written to a terminal",
                "redirect the output, or use --output FILE",
                Exit.USAGE,
            )
        if stdout and session.output.as_json:
            raise CommandError(
                "--stdout writes the key, and cannot be --json", "use --output FILE", Exit.USAGE
            )
        self._file = file
        self._token = token
        self._label = label
        self._bare = bare

    def prepare(self, mine: Owner) -> None:
        """What can fail without the key: a refused PIN or a label that is taken must not cost a use. Raises HsmdError."""
        if self._token is not None:
            from hsmd.holder.token_keys import check_free

            check_free(mine.tokens.open(self._token), self._label)
        if self._bare is not None:
            from hsmd.holder.wrapped_keys import check_rsa

            check_rsa(mine.key)

    def check(self, mine: Owner, shown: VaultVersion, *, der: bool, encrypt: bool) -> None:
        """Raises HsmdError for a key that cannot go there, as far as what the daemon shows tells it: it must not cost a use."""
        from hsmd.holder import foreseen

        if self._token is not None:
            foreseen.check_for_token(shown)
        if self._bare is not None:
            foreseen.check_wrapped_by_rsa(shown)
        if der or encrypt:
            foreseen.check_private(shown, "--encrypt" if encrypt else "--der")
        foreseen.check_opens(shown, mine.key, mine.former)

    def deliver(
        self, mine: Owner, acquired: Acquired, *, der: bool, passphrase: bytes | None
    ) -> dict[str, object]:
        """Open the envelope and put the key where it goes; what the result says about that."""
        if self._token is not None:
            from hsmd.holder.token_keys import keep

            cka_id, unseen = keep(acquired, mine.opener(acquired), mine.tokens.open(self._token), self._label)
            return {
                "token": str(self._token),
                "label": self._label,
                "cka_id": cka_id.hex(),
                "never_in_memory": unseen,
            }
        if self._bare is not None:
            from hsmd.envelopes.bare import bare_of

            write_new(self._bare, bare_of(acquired.envelope), PRIVATE)
            return {"file": str(self._bare), "suite": acquired.envelope.header.suite.value}
        content = _encoded(acquired, acquired.open(mine.opener(acquired)), der=der, passphrase=passphrase)
        if self._file is not None:
            write_new(self._file, content, PRIVATE)
            return {"file": str(self._file)}
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return {}


def _check_writable(file: Path) -> None:
    if file.exists():
        raise exists(file)
    if not os.access(file.absolute().parent, os.W_OK | os.X_OK):
        raise CommandError(
            f"{file} cannot be written: its directory is missing, or you may not write there",
            "choose another place",
            Exit.USAGE,
        )


def _encoded(acquired: Acquired, content: bytes, *, der: bool, passphrase: bytes | None) -> bytes:
    from hsmd.envelopes.header import Kind
    from hsmd.holder import brought_keys

    if acquired.statement.kind is Kind.SECRET_KEY:
        return content
    return brought_keys.encoded(content, der=der, passphrase=passphrase)


def _new_passphrase(encrypt: bool, fd: int | None, output: Path | None) -> bytes | None:
    if not encrypt:
        return None
    return passphrases.fresh(str(output or "the key"), fd, option="--key-passphrase-fd")


def uses(acquired: Acquired) -> str:
    """How many uses are left, in words."""
    if acquired.uses_left == NO_LIMIT:
        return "no limit"
    return f"{acquired.uses_left} of {acquired.statement.max_uses} left"


def _report(session: Session, acquired: Acquired, where: dict[str, object], *, quiet: bool) -> None:
    statement, left = acquired.statement, acquired.uses_left
    if quiet:
        note(f"{statement.record} version {statement.version}, uses: {uses(acquired)}")
        return
    document = {
        "record": statement.record,
        "version": statement.version,
        "key": statement.key,
        "requests": acquired.requests,
        "released": acquired.released,
        "uses_left": left,
        **where,
    }
    session.output.show(
        document,
        lambda: fields(
            [
                ("record", statement.record),
                ("version", str(statement.version)),
                ("key", statement.key),
                *((name.replace("_", " "), str(value)) for name, value in where.items()),
                ("uses", uses(acquired)),
            ]
        ),
    )
