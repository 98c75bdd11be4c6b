"""`hsmd node install`: the node as a service of systemd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base import systemd, unit_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.output import Output
from hsmd.cli.base.unit_files import Installed
from hsmd.cli.node.options import Config, app, file_of, load
from hsmd.system.directories import make_shared


@command(app, "install", example="hsmd node install\nhsmd node install --config /etc/hsmd/mail.toml --print")
def install(
    output: Output,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the unit instead of writing it.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for images.")
    ] = Path("/"),
    config: Config = None,
) -> None:
    """Write the service that runs the node, for this configuration.

    It is called hsmd-node, or hsmd-node-NAME for a configuration NAME.toml other than node.toml.
    """
    settings, file, root = load(config), file_of(config), root.absolute()
    if root == Path("/") and os.geteuid() != 0 and not only_print:
        raise CommandError("only root can write units", "run it as root, or look with --print")
    unit = systemd.NODE_UNIT if file.stem == "node" else f"hsmd-node-{file.stem}.service"
    text = systemd.node_unit(file, settings.state, settings.files)
    if not only_print and root == Path("/"):
        # A directory that is not there when the service starts cannot be written by it later.
        for directory in (settings.state, settings.files):
            make_shared(directory)
    steps = (
        f"Then:                 systemctl daemon-reload && systemctl enable --now {unit.removesuffix('.service')}",
        f"Look at it:           hsmd node status{'' if config is None else f' --config {file}'}",
    )
    unit_files.install(
        output, [Installed(systemd.DIRECTORY / unit, text)], steps, root, only_print=only_print
    )
