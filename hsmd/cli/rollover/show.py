"""`hsmd rollover show`: verify a plan and show it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.cli.rollover import approvals, plan_output
from hsmd.cli.rollover.options import Everything, ProfileFile, Svg, app

if TYPE_CHECKING:
    from hsmd.rollover.plan import Plan


@command(
    app,
    "show",
    example="hsmd rollover show fleet.plan\nhsmd rollover show fleet.plan --topology fleet.toml --svg fleet.svg\n"
    "hsmd rollover show fleet.plan --approval fleet.plan.approval --operator-key 'ssh-ed25519 AAAA...'",
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
    approval: Annotated[
        Path | None,
        typer.Option(
            "--approval",
            metavar="FILE",
            help="The approval that it must have; who approved it, when and why is shown.",
            show_default=False,
        ),
    ] = None,
    operator_key: Annotated[
        list[str],
        typer.Option(
            "--operator-key",
            metavar="LINE",
            help="Key of an operator whose approval counts, an Ed25519 line or .pub file; may be repeated. Default: the"
            " operator keys in your profile, and your own.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  read only
    profile: ProfileFile = None,
    svg: Svg = None,
    everything: Everything = False,
) -> None:
    """Verify that a plan has the tasks and gates that its topology demands, and show it; with --approval, also who approved it.

    The check does not use the planner. Exit codes: 2 the topology is not valid, 4 the plan is not what the topology demands, or
    the approval is of another plan, was altered, or is by none of the operators' keys.
    """
    if approval is None and operator_key:
        raise CommandError("--operator-key is given without --approval", "name the approval, too", Exit.USAGE)
    operators = approvals.operators(operator_key, profile) if approval else []
    data = plan_output.read(file)
    with output.working("verifying"):
        plan = plan_output.verified(data, file)
    if topology is not None:
        _check_topology(plan, topology)
    approved = approvals.check(approval, operators, plan, sha256(data).hexdigest()) if approval else None
    plan_output.write(plan, data, None, svg)
    plan_output.show(output, plan, data, everything=everything, approved=approved)


def _check_topology(plan: Plan, path: Path) -> None:
    from hsmd.rollover.topology_file import MAX_FILE_BYTES, parse

    wanted = parse(input_files.text(path, MAX_FILE_BYTES, "name a topology file"), str(path))
    if wanted.digest != plan.topology.digest:
        raise CommandError(
            f"the plan is for another topology than {path}",
            f"make one with: hsmd rollover plan {path}",
            Exit.PROBLEMS,
        )
