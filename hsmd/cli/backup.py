"""`hsmd backup`: everything of a daemon but its token in one archive, on the daemon's own host."""

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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.", show_default=False)],
    config: ConfigOption = Path("hsmd.toml"),
    host_key: Annotated[
        bool, typer.Option("--host-key", help="With the SSH host key, which is a secret; front ends pin it.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="With all of the audit log, which may be large.")
    ] = False,
) -> None:
    """Write store, configuration and newest checkpoint into one archive, while the daemon runs or not.

    The archive is for its owner only: it names clients and keys, and a database password if hsmd.toml has one. The token is not
    in it, nor its PIN: back those up as the vendor says.
    """
    from hsmd.daemon.backup.taking import take
    from hsmd.daemon.config.reader import load

    loaded = load(config.absolute())
    with ExitStack() as undo:
        descriptor = _create(file)
        undo.callback(file.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as target:
            manifest = take(loaded, target, datetime.now(UTC), host_key=host_key, audit=audit)
            target.flush()
            os.fsync(target.fileno())
        undo.pop_all()
    output.show(document(file, manifest), lambda: fields(rows(file, manifest)))


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        raise exists(path) from None
