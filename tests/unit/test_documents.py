"""Documents: generated pages are up to date, links have targets, and the files that pages name exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.daemon.audit.refusals import REFUSALS_EVENT
from hsmd.daemon.front.access.rules import Rule
from hsmd.transparency import discontinuity
from hsmd.transparency.records import CHECKPOINT_EVENT, GRANT_USED_EVENT, MARK_EVENT

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_page_of_control_requests_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate-docs", "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_every_link_within_the_page_of_control_requests_has_one_target() -> None:
    page = (ROOT / "docs" / "control.md").read_text()
    anchors = [heading.lower().replace(".", "") for heading in re.findall(r"^#+ (\S+)$", page, re.MULTILINE)]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\(#([^)]+)\)", page)) <= set(anchors)


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a page that are neither a table nor code."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            code = not code
        elif not code and not line.startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_ends_below_120_columns(page: Path) -> None:
    assert [(number, line) for number, line in prose(page) if len(line) >= 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_page_names_every_package() -> None:
    """Packages are named by their path in `hsmd`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = sorted(path.parent for path in (ROOT / "hsmd").glob("*/__init__.py"))
    packages += sorted(path.parent for path in (ROOT / "hsmd" / "daemon").rglob("__init__.py"))
    missing = [
        name
        for name in (str(package.relative_to(ROOT / "hsmd")) for package in packages)
        if name not in ("daemon", "daemon/front") and "migrations" not in name and f"`{name}/`" not in text
    ]
    assert missing == []


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    roots = [
        ROOT / "hsmd",
        ROOT / "hsmd/daemon",
        ROOT / "hsmd/daemon/front",
        ROOT / "hsmd/daemon/front/ssh",
        ROOT,
    ]
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text))
    assert len(named) > 20
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []


def test_the_page_about_the_audit_log_lists_every_event_and_every_rule() -> None:
    page = (ROOT / "docs" / "audit.md").read_text()
    sources = [path.read_text() for path in (ROOT / "hsmd" / "daemon").rglob("*.py")]
    call = re.compile(
        r'(?:[._]audit\.event|self\.event|event_tail|_record|_note|\bend)\(\s*"([a-z]+\.[a-z-]+)"'
    )
    written = {name for source in sources for name in call.findall(source)}
    written |= {REFUSALS_EVENT, MARK_EVENT, CHECKPOINT_EVENT, GRANT_USED_EVENT, discontinuity.EVENT}
    assert {"control.unknown", "enrolment.begun", "worker.crashed", "daemon.stopped", "log.torn"} <= written
    assert {name for name in written if f"`{name}`" not in page} == set()
    assert [rule for rule in Rule if rule is not Rule.GRANTED and f"`{rule}`" not in page] == []


def test_the_tests_of_the_requirements_exist() -> None:
    text = (ROOT / "docs" / "requirements.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    rows = [line for line in text.splitlines() if re.match(r"\| [KVRE]\d", line)]
    assert rows and all("::" in row for row in rows)
    assert [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []
