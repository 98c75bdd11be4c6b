"""Mitigations and the tests that notice when one is removed: the entries of the TOML files beside this module.

An entry names a mitigation in words, a file, a text that occurs in it once, the text that takes its place when the mitigation
is removed, and the test that must fail then.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTS = sorted(Path(__file__).parent.glob("*.toml"))


@dataclass(frozen=True, slots=True)
class Mitigation:
    """One entry; `file` and `test` are relative to the root of the project, `test` is a node id of pytest."""

    name: str
    file: str
    find: str
    replace: str
    test: str

    def removed_from(self, source: str) -> str:
        """The file's text without the mitigation. Raises ValueError with what is wrong with the entry."""
        count = source.count(self.find)
        if count != 1:
            raise ValueError(f"{self.name}: its text occurs {count} times in {self.file}, not once")
        changed = source.replace(self.find, self.replace)
        if changed == source:
            raise ValueError(f"{self.name}: the replacement changes nothing")
        if self.file.endswith(".py"):
            try:
                compile(changed, self.file, "exec")
            except SyntaxError as error:
                raise ValueError(f"{self.name}: the replacement is no Python: {error}") from None
        return changed

    def faults(self) -> list[str]:
        """What is wrong with the entry, without running anything."""
        found = []
        try:
            self.removed_from((ROOT / self.file).read_text())
        except (OSError, ValueError) as error:
            found.append(str(error))
        file, _, function = self.test.partition("::")
        name = re.sub(r"\[.*", "", function.split("::")[-1])
        path = ROOT / file
        if not path.is_file() or not re.search(
            rf"^\s*(async )?def {re.escape(name)}\(", path.read_text(), re.M
        ):
            found.append(f"{self.name}: there is no test {self.test}")
        return found


def load() -> list[Mitigation]:
    """All entries, in the order of the files' names."""
    return [Mitigation(**entry) for path in LISTS for entry in tomllib.loads(path.read_text())["mitigation"]]
