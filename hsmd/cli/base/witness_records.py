"""Showing and forgetting the checkpoints of audit logs that an agent, or an operator's commands, have recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, fields, table

Origin = Annotated[
    str, typer.Argument(metavar="ORIGIN", help="Origin of the log, as `list` shows it.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Confirm that you know why the log differs.")]


def show(output: Output, directory: Path) -> None:
    """Print the recorded logs and their newest checkpoints."""
    from hsmd.client.witness_memory import Memories

    found = Memories(directory).all()
    rows = [[one.origin, ", ".join(one.addresses), str(one.size), one.root, one.accepted] for one in found]
    output.show(
        {"logs": found}, lambda: table(["ORIGIN", "DAEMON", "RECORDS", "ROOT", "BREAK ACCEPTED"], rows)
    )


def reset(output: Output, directory: Path, origin: str, *, yes: bool, listing: str) -> None:
    """Forget the checkpoint of a log, if `yes` confirms that. Raises CommandError; `listing` is the command that lists logs."""
    from hsmd.client.witness_memory import Memories

    memories = Memories(directory)
    known = memories.of_origin(origin)
    if known is None:
        raise CommandError(
            f"no checkpoint of a log {origin} is recorded", f"`{listing}` shows the recorded logs", Exit.USAGE
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
