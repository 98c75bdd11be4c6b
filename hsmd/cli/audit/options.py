"""What the commands of `hsmd audit` share: the group, pages of records, checkpoint keys, and files named by options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import note
from hsmd.errors import ProtocolError
from hsmd.protocol.messages import MAX_PAGE, AuditAbout, AuditLines, AuditPage, AuditRead
from hsmd.transparency.keyring import KeyRing

app = group(
    """The audit log.

    Every use of a key is recorded before and after it is performed, with the client that requested it, and so is every control
    operation. Each record contains the hash of the previous one, so that changed, missing and reordered records are detected."""
)

EXPORT_FORMAT = "hsmd audit export v1"
"""The member `format` in the first line of an export."""

PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="Trusted key for checkpoint signatures: PEM, or the output of `hsmd audit key`.",
    ),
]


def read_page(session: Session, first: int, limit: int) -> AuditPage:
    """At most `limit` records, starting with `first`."""
    return session.ask(AuditRead(first=first, limit=limit), AuditPage)


def readable(session: Session, first: int = 0) -> Iterator[str]:
    """All records that the caller may read, from index `first` on; notes at the end what the daemon could not read."""
    undecided = 0
    while True:
        page = session.ask(AuditAbout(first=first, limit=MAX_PAGE), AuditLines)
        yield from page.lines
        undecided += page.undecided
        for away in page.away:
            note(f"Records {away.first} to {away.end - 1} are in an archive that the daemon cannot read.")
        if page.next >= page.size or page.next <= first:
            break
        first = page.next
    if undecided:
        note(
            f"Left out, because their attempts are in such an archive: outcomes and uses of grants ({undecided})."
        )


MAX_FILE_BYTES = 1 << 20


def content(path: Path) -> bytes:
    """Read a file that an option names. Raises CommandError."""
    return input_files.content(path, MAX_FILE_BYTES)


def key_ring(path: Path) -> KeyRing:
    """Read the keys in the file of --public-key. Raises CommandError."""
    try:
        return KeyRing.parse(content(path))
    except ProtocolError as problem:
        raise CommandError(
            f"{path}: {problem.text}",
            "`hsmd audit key` prints a daemon's key in the expected form",
            Exit.USAGE,
        ) from None
