"""Generated pages are what their sources say today."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_control_requests_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate-docs", "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_every_link_inside_the_page_of_control_requests_leads_to_one_section() -> None:
    page = (ROOT / "docs" / "control.md").read_text()
    anchors = [heading.lower().replace(".", "") for heading in re.findall(r"^#+ (\S+)$", page, re.MULTILINE)]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\(#([^)]+)\)", page)) <= set(anchors)


def test_prose_of_the_page_of_control_requests_ends_below_120_columns() -> None:
    lines = (ROOT / "docs" / "control.md").read_text().splitlines()
    assert [line for line in lines if len(line) >= 120 and not line.startswith("|")] == []
