"""The tree of commands, and results of command lines that run in the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer

from hsmd.cli.root import application


@dataclass(frozen=True, slots=True)
class Ran:
    """Exit code and output of a command line."""

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
"""Every command by its path, without hidden ones."""
