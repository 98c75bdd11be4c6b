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
        Path, typer.Option("--log", metavar="DIRECTORY", help="Directory of the log.", show_default=False)
    ],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="DIRECTORY", help="Directory to copy segments to.", show_default=False),
    ],
    remove: Annotated[
        bool,
        typer.Option(
            "--remove", help="After copying, remove segments from the log that a checkpoint covers."
        ),
    ] = False,
) -> None:
    """Copy sealed segments of the log to an archive, on the key host itself; the daemon may be running.

    Every record is verified while its segment is copied, and copies are synced to disk before anything is removed. For a
    removed record the daemon reports the archive; proofs about it still work. An archive with all segments and the live file
    can be verified like the log itself.
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
                ("removed", f"{len(report.removed)} segments" if remove else ""),
                ("kept", report.kept),
            ]
        ),
    )
