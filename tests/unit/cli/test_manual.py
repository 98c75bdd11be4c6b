"""Manual pages: scripts/generate-man writes one for each command, with all options, in roff that man(1) reads as text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hsmd.cli.root import ENTRIES
from tests.support.cli import COMMANDS

ROOT = Path(__file__).parents[3]
MACROS = {".TH", ".SH", ".SS", ".TP", ".PP", ".EX", ".EE", ".B", ".br"}


def generate(directory: Path, date: str = "1700000000") -> dict[str, str]:
    """The pages by name."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate-man", directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": date, "COLUMNS": "40"},
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All pages."""
    return generate(tmp_path_factory.mktemp("man"))


def plain(page: str) -> str:
    """The text of a page without the escapes of roff(7)."""
    text = re.sub(r"\\f[BIR]", "", page).replace(r"\&", "")
    for escape, character in (
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(ti", "~"),
        (r"\(ha", "^"),
        (r"\ ", " "),
        (r"\e", "\\"),
    ):
        text = text.replace(escape, character)
    return text


def test_there_is_a_page_for_each_top_level_command(pages: dict[str, str]) -> None:
    assert set(pages) == {"hsmd.1", *(f"hsmd-{name}.1" for name in ENTRIES)}
    overview = plain(pages["hsmd.1"])
    assert all(f"hsmd-{name}(1)\n{entry.summary}" in overview for name, entry in ENTRIES.items())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_page_has_the_text_the_options_and_the_examples_of_each_command(
    pages: dict[str, str], path: tuple[str, ...]
) -> None:
    page, command = plain(pages[f"hsmd-{path[0]}.1"]), COMMANDS[path]
    assert f"hsmd {' '.join(path)} [OPTIONS]" in page
    assert command.help.split("\n\n")[0].replace("`", "") in page
    for parameter in command.params:
        names = [] if parameter.param_type_name == "argument" else parameter.opts
        assert [name for name in names if not re.search(rf"^(-\w, )?{name}\b", page, re.MULTILINE)] == []
        assert " ".join(parameter.help.split()).replace("`", "") in page
    examples = re.findall(r"^  \$ (.*)$", command.epilog, re.MULTILINE)
    assert examples and all(f"  $ {example}" in page for example in examples)


def test_the_overview_has_the_documented_exit_codes(pages: dict[str, str]) -> None:
    text = plain(pages["hsmd.1"])
    assert ".TP\n3\nno daemon or agent is reachable" in text
    assert ".TP\n130\ninterrupted" in text


def test_no_text_is_read_as_a_macro_or_an_escape(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        for line in page.splitlines():
            assert not line.startswith("'"), f"{name}: {line}"
            assert not line.startswith(".") or line.split(" ")[0] in MACROS, f"{name}: {line}"
            assert re.findall(r"\\(?!f[BIR]|-|&|e|\(aq|\(ti|\(ha|\(ga| )", line) == [], f"{name}: {line}"


def test_values_have_names_that_a_person_reads(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        assert re.findall(r"<(?:str|int|float|path|list)\b[^>]*>|[<>]=", plain(page)) == [], name
    assert "--days NUMBER" in plain(pages["hsmd-cert.1"]).replace("\n", " ")


def test_pages_of_one_date_are_the_same(pages: dict[str, str], tmp_path: Path) -> None:
    assert generate(tmp_path / "again") == pages
    assert generate(tmp_path / "later", "1800000000") != pages
