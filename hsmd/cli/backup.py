"""`hsmd backup`: back up a daemon, except its token, to an archive; runs on the daemon's host."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.archive_report import document, rows
from hsmd.cli.base.commands import command
from hsmd.cli.base.files import PRIVATE, exists
from hsmd.cli.base.output import Output, fields

app = typer.Typer(add_completion=False)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file of the daemon.")
]


@command(
    app, "backup", example="hsmd backup /root/hsmd-2026-03-01.tar --config /etc/hsmd/hsmd.toml --host-key"
)
def backup(
    output: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive to write.", show_default=False)],
    config: ConfigOption = Path("hsmd.toml"),
    host_key: Annotated[
        bool, typer.Option("--host-key", help="Include the SSH host key (secret), which front ends pin.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Include the complete audit log, which may be large.")
    ] = False,
) -> None:
    """Back up store, configuration and newest checkpoint to one archive; the daemon may be running.

    Keep the archive confidential: it contains the names of clients and keys, and a database password if hsmd.toml has one.
    It does not contain the token or its PIN; back those up as the vendor recommends.
    """
    from hsmd.daemon.backup.creation import create
    from hsmd.daemon.config.reader import load

    loaded = load(config.absolute())
    with ExitStack() as undo:
        descriptor = _create(file)
        undo.callback(file.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as target:
            manifest = create(loaded, target, datetime.now(UTC), host_key=host_key, audit=audit)
            target.flush()
            os.fsync(target.fileno())
        undo.pop_all()
    output.show(document(file, manifest), lambda: fields(rows(file, manifest)))


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        raise exists(path) from None
