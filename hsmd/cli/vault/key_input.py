"""Keys that commands read from files: a private key, whose passphrase is asked for, or a symmetric one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base import input_files
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.vault import passphrases

if TYPE_CHECKING:
    from hsmd.holder.brought_keys import PrivateKeyToDeposit

ENCODINGS = ("raw", "hex", "base64")


def from_file(
    path: Path, passphrase_fd: int | None, *, option: str = "--key-passphrase-fd"
) -> PrivateKeyToDeposit:
    """The private key in a file (PEM, PKCS#8, PKCS#12; - for standard input). Raises CommandError or BadRequest."""
    from hsmd.holder import brought_keys
    from hsmd.holder.brought_keys import PassphraseNeeded

    content = input_files.content_or_input(
        path, brought_keys.MAX_FILE_BYTES, "name the file of a private key"
    )
    if passphrase_fd is not None:
        return brought_keys.from_file(content, passphrases.known("", passphrase_fd, option=option))
    try:
        return brought_keys.from_file(content, None)
    except PassphraseNeeded:
        return brought_keys.from_file(content, passphrases.known(f"Passphrase of {path}: ", option=option))


def secret_from_file(path: Path, encoding: str) -> bytes:
    """The symmetric key in a file. Raises CommandError or BadRequest."""
    from hsmd.holder import brought_keys

    if encoding not in ENCODINGS:
        raise CommandError(
            f"--secret: {encoding!r} is none of {', '.join(ENCODINGS)}",
            "name the encoding of the file",
            Exit.USAGE,
        )
    content = input_files.content_or_input(path, brought_keys.MAX_FILE_BYTES, "name the file of a key")
    return brought_keys.secret_from(content, encoding)
