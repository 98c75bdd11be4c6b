"""One `key generate`: how long it takes, and the longest gap that it makes for signatures of other keys.

Beside it the same gap on the bare token: a loop of python-pkcs11 signs while another program makes a key. Both are measured in
turns, and the medians are shown.
"""

from __future__ import annotations

import statistics
import time

from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.signing import bare_signing, line, signing
from hsmd.cli.bench.scale.site import REQUEST_S, Site
from hsmd.protocol.messages import KeyGenerate

ROUNDS = 5
UNDER_LOAD = 16
BEFORE_S = 0.3
AFTER_S = 3.0
"""Signatures go on for this long after the key was made: what follows from it belongs to the gap."""


def _measure(site: Site) -> tuple[float, ...]:
    times, gaps, bare_gaps, failed = [], [], [], 0
    for number in range(ROUNDS):
        with signing(site, in_flight=1) as found:
            times.append(_generate(site, f"gap-{site.keys}-{number}"))
        gaps.append(found.longest_gap_s)
        failed += found.failed
        bare_gaps.append(_bare_gap(site))
        with signing(site, in_flight=UNDER_LOAD) as found:
            _generate(site, f"load-{site.keys}-{number}")
        failed += found.failed
    gap, bare = statistics.median(gaps), statistics.median(bare_gaps)
    return statistics.median(times), gap * 1e3, bare * 1e3, gap / bare, failed


def _generate(site: Site, name: str) -> float:
    time.sleep(BEFORE_S)
    with site.operator() as client:
        started = time.perf_counter()
        client.control(KeyGenerate(name, "p-256", ["tls13-server"]), timeout_s=REQUEST_S)
        took = time.perf_counter() - started
    time.sleep(AFTER_S)
    return took


def _bare_gap(site: Site) -> float:
    with site.started("bare_generator", {}) as generator:
        line(generator)
        with bare_signing(site) as found:
            time.sleep(BEFORE_S)
            assert generator.stdin is not None
            generator.stdin.write(b"\n")
            generator.stdin.flush()
            line(generator)
            time.sleep(AFTER_S / 3)
    return found.longest_gap_s


MEASUREMENT = Measurement(
    (
        Row("key generate", "s"),
        Row("longest gap that it makes for other signatures", "ms"),
        Row("the same on the bare token", "ms"),
        Row("ratio of the two", ""),
        Row("failed signatures, with 1 and 16 requests open", ""),
    ),
    _measure,
)
