"""`hsmd agent witness`: list and reset the audit log checkpoints that an agent has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, fields, table

if TYPE_CHECKING:
    from hsmd.client.witness_memory import Memories

witness = group(
    """The checkpoints of the daemons' audit logs that the agent has recorded.

    An agent records the newest checkpoint of each log and refuses a daemon whose log does not continue it: a log that was
    rolled back, truncated or rewritten, or that differs between clients."""
)
app.add_typer(witness, name="witness")


@command(witness, "list", example="hsmd agent witness list")
def show(output: Output, config: Config = None) -> None:
    """List the recorded logs and their newest checkpoints."""
    found = _memories(config).all()
    rows = [[one.origin, ", ".join(one.addresses), str(one.size), one.root, one.accepted] for one in found]
    output.show(
        {"logs": found}, lambda: table(["ORIGIN", "DAEMON", "RECORDS", "ROOT", "BREAK ACCEPTED"], rows)
    )


@command(witness, "reset", example="hsmd agent witness reset hsmd/east --yes")
def reset(
    output: Output,
    origin: Annotated[
        str,
        typer.Argument(metavar="ORIGIN", help="Origin of the log, as `list` shows it.", show_default=False),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that you know why the log differs.")] = False,
    config: Config = None,
) -> None:
    """Forget the recorded checkpoint of a log, so that the agent accepts the daemon's log as it is now.

    First find out why the log differs: the recorded checkpoint is the last trace of the missing records. A running agent needs
    no restart.
    """
    memories = _memories(config)
    known = memories.of_origin(origin)
    if known is None:
        raise CommandError(
            f"no checkpoint of a log {origin} is recorded",
            "`hsmd agent witness list` shows the recorded logs",
            Exit.USAGE,
        )
    if not yes:
        raise CommandError(
            f"a checkpoint of {known.size} records of {origin} would be forgotten",
            "confirm with --yes",
            Exit.USAGE,
        )
    memories.forget(origin)
    document = {"origin": origin, "records": known.size, "root": known.root, "note": known.note}
    output.show(
        document, lambda: fields([("forgotten", origin), ("records", str(known.size)), ("root", known.root)])
    )


def _memories(config: Path | None) -> Memories:
    from hsmd.agent.config import load
    from hsmd.client.witness_memory import Memories

    return Memories(load((config or default_config()).absolute()).state / "witness")
