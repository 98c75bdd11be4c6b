"""`hsmd rollover plan`: compute the order in which a fleet changes the key of its CA."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, note
from hsmd.cli.rollover import plan_output
from hsmd.cli.rollover.options import Everything, Svg, app

if TYPE_CHECKING:
    from hsmd.rollover.plan import Order, Plan


@command(
    app,
    "plan",
    example="hsmd rollover plan fleet.toml\n"
    "hsmd rollover plan fleet.toml --bundled --output fleet.plan --svg fleet.svg\n"
    "hsmd rollover plan fleet.toml --json",
)
def plan(
    output: Output,
    topology: Annotated[
        Path,
        typer.Argument(
            metavar="TOPOLOGY",
            help="The topology, a TOML file (docs/rollover.md); - for standard input.",
            show_default=False,
        ),
    ],
    bundled: Annotated[
        bool,
        typer.Option(
            "--bundled",
            help="Each node gets new key and certificate in one step. Refused if that is not safe for one.",
        ),
    ] = False,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="One step for the nodes for which that is safe, two for the others."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write the plan into a new file.", show_default=False),
    ] = None,
    svg: Svg = None,
    everything: Everything = False,
) -> None:
    """Compute a plan: for each node what it does, what that waits for, through which relays it is reached, and until when.

    Without --bundled or --mixed each node first gets the new key and later its new certificate, which is safe for any topology.
    The same topology always gives the same plan.

    Exit codes: 2 the topology is not valid, 4 it has no safe plan as asked: the message names the edge, the cycle or the date.
    """
    from hsmd.rollover.plan_document import encode
    from hsmd.rollover.topology_file import MAX_FILE_BYTES, parse

    order = _order(bundled, mixed)
    text = input_files.text(topology, MAX_FILE_BYTES, "name a topology file")
    with output.working("planning"):
        found = _planned(parse(text, str(topology)), order)
        encoded = encode(found)
    plan_output.write(found, encoded, file, svg)
    plan_output.show(output, found, encoded, everything=everything)
    if not output.as_json and found.topology.schedule.deadline < datetime.now(UTC):
        note("Note: the deadline has passed.")


def _order(bundled: bool, mixed: bool) -> Order:
    from hsmd.rollover.plan import Order

    if bundled and mixed:
        raise CommandError("--bundled and --mixed are given", "choose one of them", Exit.USAGE)
    return Order.BUNDLED if bundled else Order.MIXED if mixed else Order.SPLIT


def _planned(topology: object, order: Order) -> Plan:
    from hsmd.rollover import planner
    from hsmd.rollover.problems import PlanRefused
    from hsmd.rollover.topology import Topology

    assert isinstance(topology, Topology)
    try:
        return planner.plan(topology, order)
    except PlanRefused as refused:
        raise CommandError("; ".join(refused.reasons), refused.advice, Exit.PROBLEMS) from None
