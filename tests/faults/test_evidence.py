"""Whichever process dies, and whatever the token returns: every use of a key is recorded before it happens, and no wrong RSA
signature is returned. `scripts/soak evidence` runs the long counts."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, running_daemon
from tests.support.evidence import Client, LogRead, compare, figures, kill_at_random, make_keys
from tests.support.fault_module.control import ANY_BIT, Action, FaultModule, Function
from tests.support.load import all_ready

FRONT_KILLS = int(os.environ.get("HSMD_TEST_EVIDENCE_FRONT_KILLS", "3"))
WORKER_KILLS = int(os.environ.get("HSMD_TEST_EVIDENCE_WORKER_KILLS", "10"))
FLIPS = int(os.environ.get("HSMD_TEST_EVIDENCE_FLIPS", "6"))
FLIP_SHARE = 0.02
LONG = FRONT_KILLS > 10
pytestmark = pytest.mark.timeout(7_200 if LONG else 120)


@pytest.fixture
def open_daemon(tmp_path: Path, fault_module: FaultModule) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:
        settings = {"before": fault_module.before, "addresses": [f"127.0.0.1:{free_port()}"], "workers": 2}
        yield lambda **options: stack.enter_context(
            running_daemon(tmp_path / "daemon", **settings, **options)
        )


def free_port() -> int:
    """A fixed port, so that a restarted front listens where the old one did."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def clients_of(built: Daemon, **options: bool) -> list[Client]:
    keys = make_keys(built, **options)
    return [Client(built, name, keys) for name in (WEB, MAIL)]


async def test_every_use_of_a_key_is_recorded_before_it_whichever_process_is_killed(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, tmp_path: Path
) -> None:
    built = open_daemon()
    clients = clients_of(built)
    seed = random.getrandbits(31)
    print(f"seed {seed}")
    async with clients[0], clients[1]:
        kills = await kill_at_random(
            built, clients, seed, fronts=FRONT_KILLS, workers=WORKER_KILLS, progress_every=50 if LONG else 0
        )
        async with built.connection(OPERATOR) as operator:
            await all_ready(built, operator)
    built.stop()
    for client in clients:
        assert not client.wrong(), "an answer is wrong"
    evidence = await asyncio.to_thread(compare, LogRead(built.audit_path.parent), fault_module, clients)
    assert evidence.uses >= evidence.answers > 0
    assert evidence.results["performed"] >= evidence.answers
    print(evidence)
    for what in ("front", "worker"):
        print(f"{what} killed: {figures([kill.at_s for kill in kills if kill.what == what], clients)}")


@pytest.mark.parametrize("verified", ["rsa", "all"])
async def test_no_wrong_signature_is_returned(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, verified: str
) -> None:
    """Bits flip in the output of C_Sign. RSA signatures are always verified, all others with verify = "all"; without it, wrong
    P-256 signatures are returned, which shows that this test detects them."""
    built = open_daemon(token_settings={"verify": verified})
    clients = clients_of(built, decrypting=False)
    rule = fault_module.rule(
        Function.SIGN, Action.FLIP, ANY_BIT, probability=FLIP_SHARE, seed=random.getrandbits(31)
    )
    async with clients[0], clients[1]:
        async with asyncio.timeout(7_000 if LONG else 60):
            while rule.hits < FLIPS or sum(bool(client.wrong("p-256")) for client in clients) < (
                verified == "rsa"
            ):
                await asyncio.sleep(0.1)
        rule.clear()
    built.stop()
    wrong = {name: sum(len(client.wrong(name)) for client in clients) for name in ("rsa", "p-256")}
    assert wrong["rsa"] == 0
    assert (wrong["p-256"] == 0) == (verified == "all")
    evidence = compare(LogRead(built.audit_path.parent), fault_module, clients)
    assert evidence.results["failed"] > 0, "faulty signatures are recorded"
    print(f"verify={verified}: {rule.hits} answers damaged, {wrong} returned wrong; {evidence}")
