"""Units that a command writes, or prints, with the steps that remain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared


@dataclass(frozen=True, slots=True)
class Installed:
    """A file and its content; `path` as the running system sees it."""

    path: Path
    content: str


def install(
    output: Output, files: Sequence[Installed], steps: Sequence[str], root: Path, *, only_print: bool
) -> None:
    """Write the files below `root`, or print them, and print the remaining steps."""
    document = {
        "files": [{"path": str(file.path), "content": file.content} for file in files],
        "written": not only_print,
    }
    if not only_print:
        for file in files:
            target = _below(root, file)
            make_shared(target.parent)
            atomic_file.replace(target, file.content, PUBLIC)
    output.show(
        document,
        lambda: "\n".join(_lines(files, root, only_print)),
        hints="\n".join(["", "Next:", *(f"  {step}" for step in steps)]),
    )


def _below(root: Path, file: Installed) -> Path:
    return root / file.path.relative_to("/")


def _lines(files: Sequence[Installed], root: Path, only_print: bool) -> list[str]:
    if not only_print:
        return [f"Wrote {_below(root, file)}" for file in files]
    return [line for file in files for line in (f"# ---- {file.path}", *file.content.splitlines(), "")]
