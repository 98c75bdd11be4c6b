"""`hsmd key list`, as a command: all pages, from start to exit."""

from __future__ import annotations

import subprocess
import sys
import time

from hsmd.cli.base.errors import CommandError
from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.site import READY_S, Site


def _measure(site: Site) -> tuple[float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hsmd.cli", "key", "list", "--json", "--profile", str(site.profile_file)],
        capture_output=True,
        timeout=READY_S,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(
            f"hsmd key list failed: {done.stderr.decode(errors='replace').strip()}", "see above"
        )
    return (time.perf_counter() - started,)


MEASUREMENT = Measurement((Row("hsmd key list", "s"),), _measure)
