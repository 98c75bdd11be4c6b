"""OpenSSH keys: generating Ed25519 key pairs, reading public keys, fingerprints."""

from __future__ import annotations

import base64
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PRIVATE, PUBLIC, write_new
from hsmd.errors import ProtocolError

if TYPE_CHECKING:
    from hsmd.transparency.note import Verifier


@dataclass(frozen=True, slots=True)
class PublicLine:
    """An OpenSSH public key: `line` is type and base64 without comment, `fingerprint` as printed by ssh-keygen."""

    line: str
    fingerprint: str


def make(private_file: Path, comment: str) -> PublicLine:
    """Generate a key pair in `private_file` (0600) and `private_file`.pub. Raises CommandError if one of them exists."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = parse(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
    write_new(private_file, private, PRIVATE)
    try:
        write_new(public_file(private_file), f"{public.line} {comment}\n", PUBLIC)
    except BaseException:
        private_file.unlink(missing_ok=True)
        raise
    return public


def make_for_now(undo: ExitStack, private_file: Path, comment: str) -> PublicLine:
    """As `make`; `undo` removes the pair."""
    made = make(private_file, comment)
    undo.callback(private_file.unlink, missing_ok=True)
    undo.callback(public_file(private_file).unlink, missing_ok=True)
    return made


def public_file(private_file: Path) -> Path:
    """The path of the public half of a private key file."""
    return private_file.with_name(private_file.name + ".pub")


def operator_keys(identity: Path | None) -> list[Verifier]:
    """The operator's own key, read from the .pub file beside `identity`; empty if missing or not Ed25519."""
    from hsmd.transparency.declaration import operator_verifier

    if identity is None:
        return []
    try:
        return [operator_verifier(public_file(identity).read_text(encoding="utf-8", errors="replace"))]
    except (OSError, ProtocolError):
        return []


def signing_key(identity: Path | None) -> Ed25519PrivateKey:
    """The operator's private key, to sign a declaration with. Raises CommandError unless it is Ed25519 without a passphrase."""
    try:
        key = load_ssh_private_key(identity.read_bytes() if identity else b"", password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandError(
            f"{identity} is not an Ed25519 SSH key without a passphrase",
            "use such a key (--identity)",
            Exit.USAGE,
        )
    return key


def read(path: Path) -> PublicLine:
    """Read the public key in `path`, a .pub file. Raises CommandError if there is none."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if "PRIVATE KEY" in text:
        raise CommandError(
            f"{path} is a private key", f"give the public half, {public_file(path)}", Exit.USAGE
        )
    return parse(text, source=str(path))


def line_or_file(text: str) -> PublicLine:
    """The public key in `text`, a key line or the name of a .pub file. Raises CommandError if there is none."""
    if text.lstrip().startswith(("ssh-", "ecdsa-", "sk-")) and " " in text.strip():
        return parse(text)
    return read(Path(text))


def parse(text: str, *, source: str = "the public key") -> PublicLine:
    """Parse an OpenSSH public key line. Raises CommandError if it is invalid."""
    words = text.split()[:2]
    try:
        load_ssh_public_key(" ".join(words).encode())
    except Exception:
        raise CommandError(
            f"{source} is not an OpenSSH public key", "give a line such as: ssh-ed25519 AAAA...", Exit.USAGE
        ) from None
    digest = hashlib.sha256(base64.b64decode(words[1])).digest()
    return PublicLine(" ".join(words), "SHA256:" + base64.b64encode(digest).decode().rstrip("="))
