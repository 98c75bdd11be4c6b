"""The threat model names only files and tests that exist, and names every attack test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()


def functions_of(path: Path) -> set[str]:
    """Names of the test functions of a file, including methods of classes."""
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def named() -> dict[str, set[str]]:
    """Tests that the document names, by file."""
    found: dict[str, set[str]] = {}
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT):
        found.setdefault(path, set()).add(name)
    return found


def test_every_test_named_exists() -> None:
    assert len(named()) > 20
    for path, names in named().items():
        assert names <= functions_of(ROOT / path), (
            f"{path}: no {', '.join(sorted(names - functions_of(ROOT / path)))}"
        )


def test_every_reference_is_well_formed() -> None:
    assert TEXT.count("::") == sum(len(names) for names in [re.findall(r"`tests/[\w/]+\.py::\w+`", TEXT)])


def test_every_file_named_exists() -> None:
    for path in re.findall(r"`((?:hsmd|scripts|tests)/[\w/.-]+)`", TEXT):
        assert (ROOT / path).exists(), path


def test_every_threat_names_its_test() -> None:
    """Each row of "Threats and mitigations" ends with a test."""
    section = TEXT.partition("## Threats and mitigations")[2].partition("## What is not protected")[0]
    rows = [
        line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| threat")
    ]
    assert len(rows) > 30
    for row in rows:
        threat, mitigation, tests = (cell.strip() for cell in row.strip("|").split(" | "))
        assert threat and mitigation
        assert "::" in tests, f"no test: {threat}"


def test_every_attack_test_is_named() -> None:
    known = named()
    for path in sorted((ROOT / "tests" / "attacks").rglob("test_*.py")):
        assert str(path.relative_to(ROOT)) in known, f"docs/threat-model.md does not mention {path.name}"
