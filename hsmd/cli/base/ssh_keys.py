"""OpenSSH keys: generating Ed25519 key pairs, reading public keys, fingerprints."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from hsmd.cli.base import input_files
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PRIVATE, PUBLIC, write_new
from hsmd.cli.base.public_key_lines import one_key
from hsmd.errors import BadRequest, ProtocolError
from hsmd.system.input_files import read_file

if TYPE_CHECKING:
    from hsmd.transparency.declaration import OperatorKey
    from hsmd.transparency.note import Verifier

MAX_KEY_BYTES = 65_536


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
        text = read_file(public_file(identity), MAX_KEY_BYTES).decode("utf-8", "replace")
        return [operator_verifier(text)]
    except (OSError, ProtocolError):
        return []


def verifiers(lines: Iterable[str]) -> list[Verifier]:
    """The keys in these OpenSSH lines, without those that are not Ed25519."""
    from hsmd.transparency.declaration import operator_verifier

    found = []
    for line in lines:
        with suppress(ProtocolError):
            found.append(operator_verifier(line))
    return found


def signing_key(identity: Path | None, option: str = "--identity") -> OperatorKey:
    """What signs an operator's declarations: the key in a file, or in the user's SSH agent.

    The agent signs if `identity` is a .pub file, or has a passphrase: its public half is then the .pub file beside it. `option`
    names the file for the user. Raises CommandError unless the key is Ed25519, and BadRequest unless the agent holds it.
    """
    if identity is None:
        raise CommandError("no SSH key is named", f"name yours with {option}", Exit.USAGE)
    content = input_files.content(identity, MAX_KEY_BYTES, f"name your SSH key ({option})")
    if b"PRIVATE KEY-----" not in content:
        return _agent_key(identity, option)
    try:
        key = load_ssh_private_key(content, password=None)
    except TypeError:  # it has a passphrase
        return _agent_key(public_file(identity), option, private=identity)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_ed25519(identity, option)
    return key


def _agent_key(public: Path, option: str, private: Path | None = None) -> OperatorKey:
    """The key in the agent whose public half is in the file `public`; `private` is its file, if that has a passphrase."""
    from hsmd.system.agent_keys import AgentKey

    if private is not None and not public.exists():
        raise CommandError(
            f"{private} has a passphrase, so an ssh-agent has to sign, and {public} is missing, which names the key there",
            f"make it with: ssh-keygen -y -f {private} > {public}",
            Exit.USAGE,
        )
    key = load_ssh_public_key(read(public).line.encode())
    if not isinstance(key, Ed25519PublicKey):
        raise _not_ed25519(public, option)
    try:
        return AgentKey(key)
    except BadRequest as problem:
        if private is None:
            raise
        what, _, advice = problem.text.rpartition("; ")
        raise CommandError(
            f"{private} has a passphrase, so an ssh-agent has to sign, but {what}", advice
        ) from None


def _not_ed25519(path: Path, option: str) -> CommandError:
    return CommandError(
        f"{path} is not an Ed25519 SSH key", f"use such a key ({option}): ssh-keygen -t ed25519", Exit.USAGE
    )


def read(path: Path) -> PublicLine:
    """Read the public key in `path`, a .pub file. Raises CommandError if it does not hold exactly one."""
    text = input_files.text(path, MAX_KEY_BYTES, "give a file with one OpenSSH public key")
    if "PRIVATE KEY-----" in text:
        public = public_file(path)
        raise CommandError(
            f"{path} is a private key; nothing was sent",
            f"give the public half, {public if public.exists() else 'in the format of OpenSSH'}",
            Exit.USAGE,
        )
    return parse(text, source=str(path))


def line_or_file(text: str) -> PublicLine:
    """The public key in `text`, a key line or the name of a .pub file. Raises CommandError if there is none."""
    if len(text.split()) > 1 and not _is_file(text):
        return parse(text)
    return read(Path(text))


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # no name of a file: too long, or with a NUL
        return False


def fingerprint(ed25519: bytes) -> str:
    """The fingerprint of an Ed25519 public key of 32 bytes, as printed by ssh-keygen."""
    key = Ed25519PublicKey.from_public_bytes(ed25519)
    return parse(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()).fingerprint


def parse(text: str, *, source: str = "the public key") -> PublicLine:
    """Parse an OpenSSH public key line. Raises CommandError if it is invalid, or more than one key."""
    line = one_key(text, source)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return PublicLine(line, "SHA256:" + base64.b64encode(digest).decode().rstrip("="))
