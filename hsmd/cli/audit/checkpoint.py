"""`hsmd audit checkpoint`: fetch and check the newest signed checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.audit.options import app
from hsmd.cli.audit.signed_checkpoints import newest_checkpoint
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.files import PUBLIC, write_new


@command(app, "checkpoint", example="hsmd audit checkpoint --out seen-on-monday")
def checkpoint_(
    session: Session,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write the checkpoint to.")
    ] = None,
) -> None:
    """Fetch the newest signed checkpoint, verify it, and print or save it.

    Saved on another host, it proves later that the log has not been changed since: see `hsmd audit verify --checkpoint`.
    """
    answer, found = newest_checkpoint(session)
    if out is not None:
        write_new(out, answer.note, PUBLIC)
    document = {"origin": found.origin, "size": found.size, "root": found.root.hex(), "note": answer.note}
    session.output.show(document, lambda: answer.note.rstrip("\n"))
