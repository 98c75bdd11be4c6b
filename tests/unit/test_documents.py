"""Generated pages are what their sources say today."""

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
