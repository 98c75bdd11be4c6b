"""`hsmd audit witness`: list and reset the audit log checkpoints that an operator's commands have recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.audit.options import app
from hsmd.cli.base import profile as profiles, witness_records
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.output import Output

witness = group(
    """The checkpoints of the daemons' audit logs that your commands have recorded.

    Commands record the newest checkpoint of each log beside your profile, and refuse a daemon whose log does not continue it. A
    break that you declare yourself (hsmd audit discontinuity) is accepted, and one by an operator in `operator_keys` of your
    profile. For an agent: hsmd agent witness."""
)
app.add_typer(witness, name="witness")

ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile", metavar="FILE", help="Operator profile. Default: ~/.config/hsmd/operator.toml."
    ),
]


@command(witness, "list", example="hsmd audit witness list")
def show(output: Output, profile: ProfileFile = None) -> None:
    """List the recorded logs and their newest checkpoints."""
    witness_records.show(output, _directory(profile))


@command(witness, "reset", example="hsmd audit witness reset hsmd/east --yes")
def reset(
    output: Output,
    origin: witness_records.Origin,
    yes: witness_records.Yes = False,
    profile: ProfileFile = None,
) -> None:
    """Forget the recorded checkpoint of a log, so that your commands accept the daemon's log as it is now.

    First find out why the log differs, for example that another operator has declared the break after a restore: the recorded
    checkpoint is the last trace of the missing records.
    """
    witness_records.reset(output, _directory(profile), origin, yes=yes, listing="hsmd audit witness list")


def _directory(profile: Path | None) -> Path:
    return (profile or profiles.default_path()).absolute().parent / "witness"
