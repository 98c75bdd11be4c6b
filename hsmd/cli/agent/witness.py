"""`hsmd agent witness`: list and reset the audit log checkpoints that an agent has recorded."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base import witness_records
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.output import Output

witness = group(
    """The checkpoints of the daemons' audit logs that the agent has recorded.

    An agent records the newest checkpoint of each log and refuses a daemon whose log does not continue it: a log that was
    rolled back, truncated or rewritten, or that differs between clients."""
)
app.add_typer(witness, name="witness")


@command(witness, "list", example="hsmd agent witness list")
def show(output: Output, config: Config = None) -> None:
    """List the recorded logs and their newest checkpoints."""
    witness_records.show(output, _directory(config))


@command(witness, "reset", example="hsmd agent witness reset hsmd/east --yes")
def reset(
    output: Output, origin: witness_records.Origin, yes: witness_records.Yes = False, config: Config = None
) -> None:
    """Forget the recorded checkpoint of a log, so that the agent accepts the daemon's log as it is now.

    First find out why the log differs: the recorded checkpoint is the last trace of the missing records. A running agent needs
    no restart.
    """
    witness_records.reset(output, _directory(config), origin, yes=yes, listing="hsmd agent witness list")


def _directory(config: Path | None) -> Path:
    from hsmd.agent.config import load

    return load((config or default_config()).absolute()).state / "witness"
