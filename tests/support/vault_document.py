"""docs/vault.md as a script: marked blocks are run in homes of their own, and passphrases are typed.

<!-- vault: WHO -->                     bash runs the block in the home of WHO
<!-- vault-python: WHO -->              Python does
<!-- vault-carry: WHO:PATH WHO:PATH --> a file is copied between homes
<!-- vault-example: WHY -->             the block is not run
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "vault.md"
_MARK = re.compile(r"<!-- vault(-\w+)?: (.*?) -->")
_FENCE = "```"


@dataclass(frozen=True, slots=True)
class Step:
    """A marked block, or a file to carry. `line` is that of the mark."""

    line: int
    kind: str
    who: str
    body: str = ""


def read(text: str) -> list[Step]:
    """The steps of a page. Raises AssertionError for a mark without a block, or a block of commands without a mark."""
    steps: list[Step] = []
    lines = text.splitlines()
    marked: tuple[int, str, str] | None = None
    at = 0
    while at < len(lines):
        if found := _MARK.fullmatch(lines[at]):
            kind, rest = (found[1] or "-run")[1:], found[2]
            if kind == "carry":
                steps.append(Step(at + 1, kind, "", rest))
            else:
                assert marked is None, f"line {at + 1}: the mark before has no block"
                marked = (at + 1, kind, rest)
        elif lines[at].startswith(_FENCE):
            end = lines.index(_FENCE, at + 1)
            body, language = "\n".join(lines[at + 1 : end]), lines[at].removeprefix(_FENCE)
            if marked is not None:
                if marked[1] != "example":
                    steps.append(Step(*marked, body))
            else:
                assert language not in ("sh", "python"), f"line {at + 1}: a block of commands without a mark"
            marked, at = None, end
        at += 1
    assert marked is None, "a mark at the end has no block"
    return steps
