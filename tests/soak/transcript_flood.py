"""A client that has 62 kB checked and signed for each operation: another client's latency is as if it flooded elsewhere.

The same flood is aimed at the daemon and at another daemon on the host, in turns. `HSMD_LONG_ROUNDS`: turns of each.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsmd.protocol import messages
from hsmd.protocol.frames import MAX_DATA_BYTES
from hsmd.purposes.tls12_client import MAX_AUTHORITIES
from tests.support.daemon import MAIL, WEB, Daemon, running_daemon
from tests.support.load import Load
from tests.support.polling import eventually
from tests.support.tls_bytes import client_transcript

ROUNDS = int(os.environ.get("HSMD_LONG_ROUNDS", "2"))
ROUND_S = 5.0
RATIO = 2.0
IN_FLIGHT = 64
GENERATORS = Path(__file__).parents[1] / "support" / "flood_generators.py"
pytestmark = pytest.mark.timeout(int(ROUNDS * ROUND_S * 10 + 200))


def transcript(built: Daemon, name: str, kind: str) -> bytes:
    """As long as a request may be, with as many elements as are accepted, or with as many as fit."""
    spki = built.ask(messages.KeyShow(name)).public_key
    authorities = {"accepted": MAX_AUTHORITIES, "refused": 20_000}[kind]
    bare = client_transcript(spki, authorities=authorities)
    return client_transcript(spki, authorities=authorities, junk=bytes(MAX_DATA_BYTES - len(bare)))


async def latencies(
    victim: Daemon, mine: bytes, flooded: Daemon, theirs: bytes, data: bytes
) -> tuple[list[float], int]:
    """Seconds of each operation of a client that sends one after another, and operations of the flood that were answered."""
    host, port = flooded.address
    with subprocess.Popen(
        [
            sys.executable, str(GENERATORS), "long", host, str(port), str(flooded.directory / WEB), WEB,
            theirs.hex(), str(ROUND_S + 2), str(IN_FLIGHT),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(data)
            process.stdin.close()
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            async with Load(victim, MAIL, mine, parallel=1, timeout_s=5.0) as load:
                await eventually(lambda: sum(done.took_s for done in load.done) >= ROUND_S, ROUND_S * 4 + 20)
            assert not load.failures, load.failures[:3]
            answered, refused = map(int, (await asyncio.to_thread(process.stdout.readline)).split())
            return [done.took_s for done in load.done], answered + refused
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["accepted", "refused"])
async def test_long_transcripts_do_not_slow_other_clients(tmp_path: Path, kind: str) -> None:
    with (
        running_daemon(tmp_path / "here", workers=1) as here,
        running_daemon(tmp_path / "elsewhere", workers=1) as elsewhere,
    ):
        mine = here.add_key("mail", grant_to=(MAIL,))
        targets = {"elsewhere": elsewhere, "here": here}
        keys = {place: each.add_key("web", "p-256", "tls12-client") for place, each in targets.items()}
        took: dict[str, list[float]] = {"elsewhere": [], "here": []}
        flood = dict.fromkeys(took, 0)
        for _ in range(ROUNDS):
            for place, target in targets.items():
                data = transcript(target, "web", kind)
                seconds, count = await latencies(here, mine, target, keys[place], data)
                took[place] += seconds
                flood[place] += count
    ratios = []
    for percentile in (50, 99):
        beside, through = (sorted(each)[len(each) * percentile // 100] for each in took.values())
        ratios.append(through / beside)
        print(
            f"{kind}: p{percentile} {beside * 1e3:.2f} ms elsewhere, {through * 1e3:.2f} ms here: "
            f"{through / beside:.2f} times; flood of {flood['elsewhere']} and {flood['here']} operations"
        )
    assert min(flood.values()) > 20, "a flood is going on"
    assert max(ratios) <= RATIO, ratios
