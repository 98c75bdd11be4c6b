"""`hsmd audit archive`: copy sealed segments of the log to another directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.audit.options import app
from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output, fields


@command(
    app,
    "archive",
    example="hsmd audit archive --log /var/lib/hsmd/audit --to /srv/archive/east\n"
    "sudo -u hsmd hsmd audit archive --log /var/lib/hsmd/audit --to /srv/archive/east --remove",
)
def archive(
    output: Output,
    log: Annotated[
        Path, typer.Option("--log", metavar="DIRECTORY", help="The log's directory.", show_default=False)
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIRECTORY", help="Where to copy to.", show_default=False)
    ],
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Remove copied segments here, as far as a checkpoint covers them."),
    ] = False,
) -> None:
    """Copy sealed segments of the log, on the key host itself; the daemon may be running.

    Each segment is checked record by record while it is copied, and on disk before anything is removed. The daemon then says of
    an old record where it went; proofs about it still work. An archive with all segments and the live file verifies
    like the log it came from.
    """
    from hsmd.daemon.audit.archiving import archive as archive_segments

    with output.working("copying segments"):
        report = archive_segments(log, to, remove=remove)
    document = {
        "copied": [{"first": each.first, "end": each.end, "sha256": each.sha256} for each in report.copied],
        "removed": report.removed,
        "kept": report.kept,
    }
    output.show(
        document,
        lambda: fields(
            [
                ("copied", f"{len(report.copied)} segments to {to}"),
                ("removed here", f"{len(report.removed)} segments" if remove else ""),
                ("kept here", report.kept),
            ]
        ),
    )
