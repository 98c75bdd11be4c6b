"""Replacing a client's SSH key. A rotation can be run again after a crash at any step.

The new key is first in a file beside the current one. It replaces the current key after every daemon has accepted it, and the
old key is removed from the daemons only over connections that use the new one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from hsmd.cli.base import ssh_keys
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.ssh_keys import PublicLine
from hsmd.client.endpoint import read_identity
from hsmd.protocol import key_proofs
from hsmd.protocol.messages import ClientRotateKey, WhoAmI
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from hsmd.client import Endpoint

ASK_S = 15.0


def rotate(daemons: Sequence[Endpoint], comment: str) -> PublicLine:
    """Replace the key with which this client logs in to all of these daemons; return the new one. Raises CommandError.

    Root may do it for another user: it reads the key and connects with the privileges of the key's owner.
    """
    from hsmd.errors import HsmdError

    identity = daemons[0].identity_file
    if daemons[0].certificate_file is not None:
        raise CommandError(
            "this client uses a certificate", "have the CA issue one for a new key", Exit.USAGE
        )
    if not os.access(identity.parent, os.W_OK, effective_ids=True):
        raise CommandError(
            f"the directory {identity.parent} cannot be written, and the new key replaces {identity}",
            "run the command as root; the owner of the key stays the same",
            Exit.USAGE,
        )
    try:
        _rotate(daemons, identity, identity.with_name(identity.name + ".next"), comment)
    except HsmdError as error:
        raise CommandError(
            error.text, "fix this and run the command again: it continues where it stopped"
        ) from None
    return ssh_keys.read(ssh_keys.public_file(identity))


@contextmanager
def _as_owner(file: Path) -> Iterator[None]:
    """Act as the owner of `file` if this is root and the owner is another user, who may control the place of the file."""
    owner = file.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group = os.getegid()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def _rotate(daemons: Sequence[Endpoint], identity: Path, next_identity: Path, comment: str) -> None:
    if not os.path.lexists(next_identity):
        for daemon in daemons:
            _ask(daemon, ClientRotateKey())  # completes an interrupted run
        ssh_keys.public_file(next_identity).unlink(missing_ok=True)
        # Synced to disk: a key that is registered but lost in a power failure would block every later rotation.
        ssh_keys.make(next_identity, comment)
    _own_like(identity, next_identity)
    line = _public_line(next_identity)
    current = ssh_keys.parse(_public_line(identity)).fingerprint
    for daemon in daemons:
        _register(daemon, line, _proof(next_identity, daemon.user, current, ssh_keys.parse(line).fingerprint))
    for daemon in daemons:
        _ask(replace(daemon, identity_file=next_identity), WhoAmI())
    os.replace(next_identity, identity)
    # Before the daemons remove the old key: a power failure must not bring it back.
    atomic_file.sync_directory(identity.parent)
    atomic_file.replace(ssh_keys.public_file(identity), f"{line} {comment}\n", PUBLIC)
    ssh_keys.public_file(next_identity).unlink(missing_ok=True)
    for daemon in daemons:
        _ask(daemon, ClientRotateKey())


def _ask(daemon: Endpoint, request: ClientRotateKey | WhoAmI) -> None:
    from hsmd.client import Client

    with _as_owner(daemon.identity_file), Client.connect(daemon) as client:
        client.control(request, timeout_s=ASK_S)


def _register(daemon: Endpoint, line: str, proof: str) -> None:
    """Register the next key; a daemon of an earlier release neither knows the proof nor needs it."""
    from hsmd.errors import BadRequest

    try:
        _ask(daemon, ClientRotateKey(public_key=line, proof=proof))
    except BadRequest as error:
        if "unknown field `proof`" not in error.text:
            raise
        _ask(daemon, ClientRotateKey(public_key=line))


def _proof(private_file: Path, client: str, current: str, successor: str) -> str:
    key = _private_key(private_file)
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandError(f"{private_file} is not an Ed25519 key", "remove it, and run the command again")
    return key_proofs.encode_ed25519(key.sign(key_proofs.rotation_statement(client, current, successor)))


def _public_line(private_file: Path) -> str:
    """Derived from the private key: after a crash the .pub file may be missing."""
    line: bytes = _private_key(private_file).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line.decode()


def _private_key(file: Path) -> Any:
    with _as_owner(file):
        return load_ssh_private_key(read_identity(file), password=None)


def _own_like(old: Path, new: Path) -> None:
    """Give the new key the owner of the old one. Raises CommandError unless it is a regular file with a single link.

    The agent's user may own the directory: a link placed there must not make root change the owner of another file.
    """
    status = old.stat()
    try:
        descriptor = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_a_key(new) if error.errno == errno.ELOOP else error from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _not_a_key(new)
        if os.geteuid() == 0:
            os.fchown(descriptor, status.st_uid, status.st_gid)
    finally:
        os.close(descriptor)


def _not_a_key(path: Path) -> CommandError:
    return CommandError(
        f"{path} is a link or not a regular file",
        "find out where it came from, remove it, and run the command again",
    )
