"""Floods of one client, kind after kind: what another client feels of each, and what the process holds before and after.

    python tests/soak/floods.py --minutes N --seed N [--site SITE] [--kinds A,B] [--connections N] [--ratio R] [--only-here]

`--minutes` is the time of each kind at the watched server; the same flood is aimed at another one on the same host as often,
in turns, so that what the machine itself suffers is in both figures. A kind passes if the latencies of the other client, at the
median and at the 99th percentile, are at most `--ratio` times as long as elsewhere, none of its logins failed, and the process
holds no more afterwards than before (a tenth more memory at most). Before is after honest work and a first short flood: what a
server keeps ready, such as threads, is not what a flood leaves behind. The order of the kinds is drawn with the seed. With
`--only-here` the flood is begun once and no time is spent elsewhere, and latencies are printed but not judged: for long runs of
several kinds at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.agent_flood_site import AgentFloodSite
from tests.support.flood_site import DaemonSite, Held, Site, percentile, settled

TURN_S = 10.0
WARM_S = 20.0
"""Honest work before the first kind: until then a daemon grows by a few MiB, and then no more."""
FIRST_S = 3.0
LOGIN_EVERY_S = 1.0
MEASURED_S = 1.0
"""Honest work in each ten seconds of several kinds at the same time: the processor is for the floods."""

SITES: dict[str, Callable[[Path], AbstractContextManager[Site]]] = {
    "daemon": DaemonSite,
    "agent": AgentFloodSite,
}


class Run:
    """One kind of flood."""

    def __init__(
        self, site: Site, kind: str, connections: int, seconds: float, *, only_here: bool = False
    ) -> None:
        self.site, self.kind, self.connections, self.seconds = site, kind, connections, seconds
        self.only_here = only_here
        self.here: list[float] = []
        self.elsewhere: list[float] = []
        self.logins = self.failed = 0

    async def run(self) -> None:
        """Flood here and elsewhere in turns."""
        before_all = Held.by(self.site.pid)
        await self._turn(FIRST_S, elsewhere=False)
        self.before = await settled(self.site.pid, before_all)
        left = self.seconds
        while left > 0:
            turn = left if self.only_here else min(left, TURN_S)
            if not self.only_here:
                self.elsewhere += await self._turn(turn, elsewhere=True)
            self.here += await self._turn(turn, elsewhere=False)
            left -= turn
        self.during = self._held
        self.after = await settled(self.site.pid, self.before)
        self.here.sort()
        self.elsewhere.sort()

    async def _turn(self, seconds: float, *, elsewhere: bool) -> list[float]:
        with self.site.flood(self.kind, self.connections, elsewhere=elsewhere) as flood:
            logins = None if elsewhere else asyncio.create_task(self._log_in())
            try:
                took = await self._latencies(seconds)
                assert flood.poll() is None, f"the flood {self.kind} ended by itself"
                self._held = Held.by(self.site.pid)
            finally:
                if logins is not None:
                    logins.cancel()
                    await asyncio.gather(logins, return_exceptions=True)
        return took

    async def _latencies(self, seconds: float) -> list[float]:
        """Those of the whole time; with `only_here` those of one second in ten."""
        if not self.only_here:
            return await self.site.latencies(seconds)
        took = []
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            took += await self.site.latencies(min(left, MEASURED_S))
            await asyncio.sleep(min(ends - time.monotonic(), TURN_S - MEASURED_S))
        return took

    async def _log_in(self) -> None:
        while True:
            self.logins += 1
            try:
                await self.site.log_in()
            except Exception as error:
                self.failed += 1
                print(f"{self.kind}: a login failed: {error!r}", flush=True)
            await asyncio.sleep(LOGIN_EVERY_S)

    def ratio(self, part: float) -> float:
        """How much longer operations take than elsewhere, at this percentile; 0 if none were made there."""
        return percentile(self.here, part) / percentile(self.elsewhere, part) if self.elsewhere else 0.0

    def passed(self, ratio: float) -> bool:
        """Whether this flood is felt no more than it may be, and has left nothing behind."""
        felt = max(self.ratio(0.5), self.ratio(0.99)) > ratio
        return not felt and not self.failed and self.after.is_back_at(self.before)

    def __str__(self) -> str:
        figures = "  ".join(self._latency(part) for part in (0.5, 0.99))
        return (
            f"{self.kind:18} {figures}  {len(self.here)} operations, {self.logins} logins, {self.failed} failed\n"
            f"{'':18} before {self.before}; during {self.during}; after {self.after}"
        )

    def _latency(self, part: float) -> str:
        here = f"p{part * 100:.0f} {percentile(self.here, part) * 1e3:.1f} ms"
        if not self.elsewhere:
            return here
        return f"{here}, {self.ratio(part):.1f} times {percentile(self.elsewhere, part) * 1e3:.1f}"


async def run(site: Site, options: argparse.Namespace) -> bool:
    """Run the chosen kinds; return whether all passed."""
    kinds = options.kinds.split(",") if options.kinds else list(site.kinds)
    random.Random(options.seed).shuffle(kinds)
    failed = []
    await site.latencies(WARM_S)
    for kind in kinds:
        one = Run(site, kind, options.connections, options.minutes * 60, only_here=options.only_here)
        await one.run()
        good = one.passed(options.ratio)
        print(f"{one}\n{'':18} {'passed' if good else 'FAILED'}", flush=True)
        if not good:
            failed.append(kind)
    print(f"{len(kinds) - len(failed)} of {len(kinds)} kinds passed; failed: {', '.join(failed) or 'none'}")
    return not failed


def main() -> None:
    """Exit with 1 if a kind failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--site", choices=SITES, default="daemon")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--connections", type=int, default=30)
    parser.add_argument("--ratio", type=float, default=2.0)
    parser.add_argument("--only-here", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, SITES[options.site](Path(directory)) as site:
        sys.exit(not asyncio.run(run(site, options)))


if __name__ == "__main__":
    main()
