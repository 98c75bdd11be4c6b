"""A plan on the terminal or as JSON, and as a new file: what the commands that make and read plans print."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base import files, input_files
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, fields, note, table

if TYPE_CHECKING:
    from hsmd.cli.base.output import TextOutput
    from hsmd.rollover.approval import Approved
    from hsmd.rollover.plan import Plan


def read(file: Path) -> bytes:
    """The bytes of a plan; `-` is standard input. Raises CommandError."""
    from hsmd.rollover.plan_document import MAX_PLAN_BYTES

    return input_files.content_or_input(file, MAX_PLAN_BYTES, "name a plan")


def verified(data: bytes, file: Path) -> Plan:
    """The plan that `data` encodes. Raises CommandError, which names the file, unless it is what its topology demands."""
    from hsmd.rollover.plan_document import decode
    from hsmd.rollover.problems import PlanInvalid

    try:
        return decode(data)
    except PlanInvalid as problem:
        raise CommandError(
            f"{file}: {problem.text}", "do not use it; make a plan with: hsmd rollover plan", Exit.PROBLEMS
        ) from None


def write(plan: Plan, encoded: bytes, file: Path | None, svg: Path | None) -> None:
    """Write what is asked for into new files, all or none if one exists. Raises CommandError."""
    for path in filter(None, (file, svg)):
        files.check_directory(path)
        if path.exists():
            raise files.exists(path)
    if file is not None:
        files.write_new(file, encoded, files.PUBLIC)
    if svg is not None:
        from hsmd.rollover.picture import draw

        files.write_new(svg, draw(plan), files.PUBLIC)


def show(
    output: Output, plan: Plan, encoded: bytes, *, everything: bool, approved: Approved | None = None
) -> None:
    """Print the plan and who approved it, and on standard error what an operator should know besides."""
    from hsmd.rollover.plan_document import to_document

    digest = sha256(encoded).hexdigest()
    document: dict[str, object] = {}
    if output.as_json:
        document = {"digest": digest, "plan": to_document(plan), "notes": list(plan.notes)}
        if approved is not None:
            document["approval"] = {
                "operators": _fingerprints(approved),
                "time": approved.approval.time,
                "reason": approved.approval.reason,
            }
    output.show(document, lambda: _text(plan, digest, approved, everything=everything))
    if not output.as_json:
        for line in plan.notes:
            note(f"Note: {line}.")


def about(plan: Plan, digest: str) -> list[tuple[str, str]]:
    """What the plan is, for people."""
    schedule = plan.topology.schedule
    return [
        ("authority", plan.topology.authority.name),
        ("order", plan.order.value),
        ("nodes", f"{len(plan.topology.nodes):,} with {len(plan.topology.edges):,} edges"),
        ("tasks", f"{len(plan.tasks):,} in {plan.stages:,} stages"),
        ("time", f"{schedule.starts:%Y-%m-%d %H:%M:%SZ} to {schedule.deadline:%Y-%m-%d %H:%M:%SZ}"),
        ("topology", plan.topology.digest),
        ("digest", digest),
    ]


def _fingerprints(approved: Approved) -> list[str]:
    from hsmd.cli.base.ssh_keys import fingerprint

    return [fingerprint(operator.key) for operator in approved.operators]


def _about_approval(approved: Approved) -> Sequence[tuple[str, str]]:
    return [
        ("approved by", " and ".join(_fingerprints(approved))),
        ("at", approved.approval.time),
        ("reason", approved.approval.reason),
    ]


def _text(plan: Plan, digest: str, approved: Approved | None, *, everything: bool) -> TextOutput:
    from hsmd.rollover import plan_tables

    listed = everything or len(plan.tasks) <= plan_tables.MAX_TASKS
    facts = [*about(plan, digest), *(_about_approval(approved) if approved else ())]
    tasks = (
        table(plan_tables.TASK_HEADERS, plan_tables.task_rows(plan))
        if listed
        else table(plan_tables.GROUP_HEADERS, plan_tables.group_rows(plan))
    )
    ways = plan_tables.way_rows(plan, everything=everything)
    return fields(facts), "\n", tasks, "\n", table(plan_tables.WAY_HEADERS, ways)
