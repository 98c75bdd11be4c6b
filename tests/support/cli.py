"""The tree of commands, and how a command line that ran in the test's own process ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer

from hsmd.cli.root import application


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command line ended and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def _walk(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = typer.Context(group, info_name="hsmd")
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        if hasattr(command, "list_commands"):
            yield from _walk(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


COMMANDS = dict(_walk(application()))
"""Every command by its path, hidden ones left out."""
