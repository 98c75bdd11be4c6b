"""`hsmd rollover approve`: sign that a plan may be carried out."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import files, profile as profiles
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.input_files import STANDARD_INPUT
from hsmd.cli.base.output import Output, fields, note
from hsmd.cli.rollover import plan_output
from hsmd.cli.rollover.options import ProfileFile, app
from hsmd.errors import BadRequest

if TYPE_CHECKING:
    from hsmd.rollover.approval import Approval
    from hsmd.rollover.plan import Plan
    from hsmd.transparency.declaration import OperatorKey


@command(
    app,
    "approve",
    example='hsmd rollover approve fleet.plan --key ~/.ssh/id_ed25519 --reason "reviewed in change 4711"',
)
def approve(
    output: Output,
    file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="The plan; - for standard input.", show_default=False)
    ],
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="Why it may be carried out, in one line.", show_default=False
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Your SSH key (Ed25519); if it has a passphrase, or with a .pub file, your ssh-agent signs. Default: the"
            " identity in your profile.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write the approval into this new file. Default: PLAN.approval.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    profile: ProfileFile = None,
) -> None:
    """Approve a plan: verify it, show what it is, and sign its digest and that of its topology with your SSH key.

    Look at the plan first: hsmd rollover show. The approval is about exactly these bytes, and is of no use for another plan.

    Exit code 4: the plan is not what its topology demands.
    """
    from hsmd.cli.base.ssh_keys import signing_key

    data = plan_output.read(file)
    with output.working("verifying"):
        plan = plan_output.verified(data, file)
    approval = _approval(plan, data, reason)
    written = _new_file(file, target)
    signing = signing_key(key or profiles.load_if_there(profile).identity, "--key")
    _confirm(plan, approval, signing, yes=yes)
    now = _approval(plan, data, reason)  # it may have taken long to answer
    _sign(output, plan, now, signing, written)


def _approval(plan: Plan, data: bytes, reason: str) -> Approval:
    """What is signed now. Raises CommandError for a reason that is not one printable line."""
    from hsmd.rollover.approval import Approval
    from hsmd.transparency.lines import format_time

    now = format_time(datetime.now(UTC))
    try:
        return Approval(sha256(data).hexdigest(), plan.topology.digest, now, reason)
    except BadRequest as problem:
        raise CommandError(f"--{problem.text}", "say why the plan may be carried out", Exit.USAGE) from None


def _new_file(plan: Path, target: Path | None) -> Path:
    """Where the approval is written; checked before anything is asked. Raises CommandError if it exists."""
    if target is None and plan == STANDARD_INPUT:
        raise CommandError(
            "the plan comes from standard input, and its approval has no name",
            "name its file with --output",
            Exit.USAGE,
        )
    path = target or plan.with_name(f"{plan.name}.approval")
    files.check_directory(path)
    if path.exists():
        raise files.exists(path)
    return path


def _confirm(plan: Plan, approval: Approval, key: OperatorKey, *, yes: bool) -> None:
    """Show what is approved, on standard error so that it is seen; then ask. Raises CommandError for a no."""
    from hsmd.cli.base.ssh_keys import fingerprint

    about = [
        *plan_output.about(plan, approval.plan),
        ("reason", approval.reason),
        ("your key", fingerprint(key.public_key().public_bytes_raw())),
    ]
    width = max(len(name) for name, _ in about) + 2
    note("You approve this plan:\n" + "\n".join(f"  {name:{width}}{value}" for name, value in about))
    for line in plan.notes:
        note(f"Note: {line}.")
    if plan.topology.schedule.deadline < datetime.now(UTC):
        note("Note: the deadline has passed.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "an approval needs a confirmation; nothing was signed",
            "check what is shown above, then add --yes",
            Exit.USAGE,
        )
    if not typer.confirm("Approve it?", err=True):
        raise CommandError("nothing was signed", "")


def _sign(output: Output, plan: Plan, approval: Approval, key: OperatorKey, written: Path) -> None:
    from hsmd.cli.base.ssh_keys import fingerprint
    from hsmd.rollover.approval import sign

    signed = sign(approval, key).render()
    files.write_new(written, signed, files.PUBLIC)
    operator = fingerprint(key.public_key().public_bytes_raw())
    document = {
        "file": str(written),
        "digest": approval.plan,
        "topology": approval.topology,
        "order": plan.order.value,
        "nodes": len(plan.topology.nodes),
        "deadline": plan.topology.schedule.deadline,
        "operator": operator,
        "time": approval.time,
        "reason": approval.reason,
        "note": signed,
    }
    output.show(
        document,
        lambda: fields(
            [
                ("approved", approval.plan),
                ("by", operator),
                ("at", approval.time),
                ("reason", approval.reason),
                ("file", str(written)),
            ]
        ),
    )
