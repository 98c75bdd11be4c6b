"""What the commands of `hsmd rollover` share: the group, and options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.commands import group

app = group(
    """Replace the key of a CA under a running fleet, without a failed handshake.

    The order of steps is computed from the topology: which node connects to which, and who authenticates whom. A plan is a file
    that an operator reviews and approves; nodes that hold it can check it, too. These commands need no daemon."""
)

Svg = Annotated[
    Path | None,
    typer.Option("--svg", metavar="FILE", help="Also draw the plan, into a new file.", show_default=False),
]
Everything = Annotated[
    bool, typer.Option("--all", help="List every task, also of a large fleet, and not groups of nodes.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Operator profile. Default: ~/.config/hsmd/operator.toml.",
        show_default=False,
    ),
]
