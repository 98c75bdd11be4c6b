"""`hsmd agent witness`: what an agent remembers of daemons' audit logs, and giving it up by hand."""

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
    """What the agent has seen of the daemons' audit logs.

    An agent remembers the newest checkpoint of each log and refuses a daemon whose log does not continue it: one that was
    rolled back, cut off or rewritten, or that shows different histories to different people."""
)
app.add_typer(witness, name="witness")


@command(witness, "list", example="hsmd agent witness list")
def show(output: Output, config: Config = None) -> None:
    """List the logs seen, and how far."""
    found = _memories(config).all()
    rows = [[one.origin, ", ".join(one.addresses), str(one.size), one.root, one.accepted] for one in found]
    output.show(
        {"logs": found}, lambda: table(["ORIGIN", "DAEMON", "RECORDS", "ROOT", "BREAK ACCEPTED"], rows)
    )


@command(witness, "reset", example="hsmd agent witness reset hsmd/east --yes")
def reset(
    output: Output,
    origin: Annotated[
        str, typer.Argument(metavar="ORIGIN", help="The log, as `list` calls it.", show_default=False)
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="You know why the log is not the one seen before.")
    ] = False,
    config: Config = None,
) -> None:
    """Forget what was seen of a log, so that the agent takes whatever its daemon shows next.

    Only after finding out why the log differs: this is the last trace of the records that are missing. A running agent
    notices by itself.
    """
    memories = _memories(config)
    known = memories.of_origin(origin)
    if known is None:
        raise CommandError(
            f"nothing was seen of a log {origin}", "`hsmd agent witness list` shows what was seen", Exit.USAGE
        )
    if not yes:
        raise CommandError(
            f"{known.size} records of {origin} were seen", "add --yes to forget that", Exit.USAGE
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
