"""A plan on the terminal or as JSON, and as a new file: what the commands that make and read plans print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base import files
from hsmd.cli.base.output import Output, fields, note, table

if TYPE_CHECKING:
    from hsmd.cli.base.output import TextOutput
    from hsmd.rollover.plan import Plan


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


def show(output: Output, plan: Plan, encoded: bytes, *, everything: bool) -> None:
    """Print the plan, and on standard error what an operator should know besides."""
    from hashlib import sha256

    from hsmd.rollover.plan_document import to_document

    digest = sha256(encoded).hexdigest()
    document = (
        {"digest": digest, "plan": to_document(plan), "notes": list(plan.notes)} if output.as_json else {}
    )
    output.show(document, lambda: _text(plan, digest, everything=everything))
    if not output.as_json:
        for line in plan.notes:
            note(f"Note: {line}.")


def _text(plan: Plan, digest: str, *, everything: bool) -> TextOutput:
    from hsmd.rollover import plan_tables

    listed = everything or len(plan.tasks) <= plan_tables.MAX_TASKS
    schedule = plan.topology.schedule
    about = [
        ("authority", plan.topology.authority.name),
        ("order", plan.order.value),
        ("nodes", f"{len(plan.topology.nodes):,} with {len(plan.topology.edges):,} edges"),
        ("tasks", f"{len(plan.tasks):,} in {plan.stages:,} stages"),
        ("time", f"{schedule.starts:%Y-%m-%d %H:%M:%SZ} to {schedule.deadline:%Y-%m-%d %H:%M:%SZ}"),
        ("topology", plan.topology.digest),
        ("digest", digest),
    ]
    tasks = (
        table(plan_tables.TASK_HEADERS, plan_tables.task_rows(plan))
        if listed
        else table(plan_tables.GROUP_HEADERS, plan_tables.group_rows(plan))
    )
    ways = plan_tables.way_rows(plan, everything=everything)
    return fields(about), "\n", tasks, "\n", table(plan_tables.WAY_HEADERS, ways)
