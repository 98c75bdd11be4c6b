"""What the commands of `hsmd audit` share: their group, pages of records, and files that they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.commands import group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import ProtocolError
from hsmd.protocol.messages import AuditPage, AuditRead
from hsmd.transparency.keyring import KeyRing

app = group(
    """The audit log.

    Every use of a key is recorded before and after it happens, with who asked, and every control operation. Each record holds
    the hash of the one before it, so that a change, a gap or a swap shows."""
)

EXPORT_FORMAT = "hsmd audit export v1"
"""First member of what `hsmd audit export` prints."""

PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="Who may have signed checkpoints: PEM, or what `hsmd audit key` printed earlier.",
    ),
]


def read_page(session: Session, first: int, limit: int) -> AuditPage:
    """Records from `first` on, at most `limit`."""
    return session.ask(AuditRead(first=first, limit=limit), AuditPage)


def content(path: Path) -> bytes:
    """What is in a file that an option names. Raises CommandError."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise CommandError(
            f"{path} cannot be read: {problem.strerror}", "name a file that can be read", Exit.USAGE
        ) from None


def key_ring(path: Path) -> KeyRing:
    """The keys in a file that --public-key names. Raises CommandError."""
    try:
        return KeyRing.parse(content(path))
    except ProtocolError as problem:
        raise CommandError(
            f"{path}: {problem.text}", "`hsmd audit key` prints the line of a daemon's key", Exit.USAGE
        ) from None
