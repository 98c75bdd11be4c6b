"""A minute of coverage-guided fuzzing over all targets; `scripts/soak fuzz` runs the same for longer."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, seeds

RUN = Path(__file__).parent / "run.py"
SECONDS_EACH = 60 // len(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_pass(target: str) -> None:
    inputs = list(seeds(target))
    assert inputs
    for data in (b"", *inputs):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_only_declared_errors_are_raised(target: str, tmp_path: Path) -> None:
    seed = random.randrange(1, 2**31)
    options = [f"-seed={seed}", f"-max_total_time={SECONDS_EACH}"]
    done = subprocess.run(
        [sys.executable, RUN, target, tmp_path, *options],
        capture_output=True,
        text=True,
        timeout=SECONDS_EACH + 60,
        check=False,
    )
    output = f"reproduce with: python tests/fuzz/run.py {target} DIRECTORY {' '.join(options)}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, output
    assert f"files found in {tmp_path}" in done.stderr, output
    assert "DONE" in done.stderr, output
