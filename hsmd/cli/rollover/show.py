"""`hsmd rollover show`: verify a plan and show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.cli.rollover import plan_output
from hsmd.cli.rollover.options import Everything, Svg, app

if TYPE_CHECKING:
    from hsmd.rollover.plan import Plan


@command(
    app,
    "show",
    example="hsmd rollover show fleet.plan\nhsmd rollover show fleet.plan --topology fleet.toml --svg fleet.svg",
)
def show(
    output: Output,
    file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="The plan; - for standard input.", show_default=False)
    ],
    topology: Annotated[
        Path | None,
        typer.Option(
            "--topology",
            metavar="FILE",
            help="The topology that it must be a plan for. Default: the one that the plan holds.",
            show_default=False,
        ),
    ] = None,
    svg: Svg = None,
    everything: Everything = False,
) -> None:
    """Verify that a plan has the tasks and gates that its topology demands, and show it.

    The check does not use the planner. Exit codes: 2 the topology is not valid, 4 the plan is not what the topology demands.
    """
    from hsmd.rollover.plan_document import MAX_PLAN_BYTES

    data = input_files.content_or_input(file, MAX_PLAN_BYTES, "name a plan")
    with output.working("verifying"):
        plan = _verified(data, file)
    if topology is not None:
        _check_topology(plan, topology)
    plan_output.write(plan, data, None, svg)
    plan_output.show(output, plan, data, everything=everything)


def _verified(data: bytes, file: Path) -> Plan:
    from hsmd.rollover.plan_document import decode
    from hsmd.rollover.problems import PlanInvalid

    try:
        return decode(data)
    except PlanInvalid as problem:
        raise CommandError(
            f"{file}: {problem.text}", "do not use it; make a plan with: hsmd rollover plan", Exit.PROBLEMS
        ) from None


def _check_topology(plan: Plan, path: Path) -> None:
    from hsmd.rollover.topology_file import MAX_FILE_BYTES, parse

    wanted = parse(input_files.text(path, MAX_FILE_BYTES, "name a topology file"), str(path))
    if wanted.digest != plan.topology.digest:
        raise CommandError(
            f"the plan is for another topology than {path}",
            f"make one with: hsmd rollover plan {path}",
            Exit.PROBLEMS,
        )
