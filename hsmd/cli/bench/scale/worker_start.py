"""How long workers take to start: all of them with the daemon, and one while the others sign."""

from __future__ import annotations

import os
import signal
import time

from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.signing import signing
from hsmd.cli.bench.scale.site import Site

IN_FLIGHT = 8


def _measure(site: Site) -> tuple[float, float, float]:
    signers, _ = site.workers()
    with signing(site, in_flight=IN_FLIGHT) as found:
        started = time.monotonic()
        os.kill(signers[0], signal.SIGKILL)
        while signers[0] in site.workers()[0]:
            time.sleep(0.05)
        site.wait_for_workers()
        took = time.monotonic() - started
    return site.daemon_start_s, took, found.failed


MEASUREMENT = Measurement(
    (
        Row("start of the daemon with all workers", "s"),
        Row("start of a worker while others sign", "s"),
        Row("failed signatures meanwhile", ""),
    ),
    _measure,
)
