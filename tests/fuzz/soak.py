"""Fuzz every target for a number of minutes, as many in parallel as there are processors; for `scripts/soak fuzz`."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

RUN = Path(__file__).parent / "run.py"


def main() -> None:
    """Exit with code 1 if a target broke; the output names the directory of its input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    names = subprocess.run([sys.executable, RUN], capture_output=True, text=True, check=False).stderr
    targets = names.rpartition("targets: ")[2].split()
    with ThreadPoolExecutor(os.cpu_count() or 1) as several:
        held = list(several.map(partial(fuzz, seed=given.seed, seconds=int(given.minutes * 60)), targets))
    sys.exit(0 if targets and all(held) else 1)


def fuzz(target: str, seed: int, seconds: int) -> bool:
    """Fuzz one target; return whether it held."""
    directory = Path(tempfile.mkdtemp(prefix=f"hsmd-fuzz-{target}-"))
    log = directory.with_suffix(".log")
    started = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, RUN, target, directory, f"-seed={seed}", f"-max_total_time={seconds}"]
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    text = log.read_text()
    runs = re.search(r"Done (\d+) runs", text)
    print(
        f"{target}: {'held' if code == 0 else 'BROKE'}, {runs.group(1) if runs else '?'} inputs in "
        f"{time.monotonic() - started:.0f} s; log {log}, corpus {directory}",
        flush=True,
    )
    if code != 0:
        print(text[-4_000:], file=sys.stderr)
    return code == 0


if __name__ == "__main__":
    main()
