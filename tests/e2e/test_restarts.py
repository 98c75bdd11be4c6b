"""Agent and daemon are restarted while handshakes go on, and nginx is started while one of them is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.front_end import HOST, TIMEOUT_MS
from tests.support.outages import BACK_S, every_signature_is_in_the_log
from tests.support.polling import wait_until
from tests.support.site import PEM_HOST, Site
from tests.support.tls_load import Lane, Load

STEADY_S = float(os.environ.get("HSMD_E2E_STEADY_S", "3"))
LANES = (
    Lane("p256.test", "1.2", interval_s=0.06),
    Lane("rsa.test", "1.2", interval_s=0.06),
    Lane(PEM_HOST, "1.3", interval_s=0.06),
)


@dataclass(frozen=True, slots=True)
class Restart:
    """Stops something, and starts it again."""

    name: str
    stop: Callable[[Site], None]
    start: Callable[[Site], None]


def start_daemon(site: Site) -> None:
    site.daemon.start()


RESTARTS = (
    Restart("agent", lambda site: site.agent.stop(), lambda site: site.agent.start()),
    Restart("daemon", lambda site: site.daemon.stop(), start_daemon),
)


@pytest.mark.parametrize("restart", RESTARTS, ids=lambda restart: restart.name)
def test_only_handshakes_in_flight_fail_when_something_is_restarted(site: Site, restart: Restart) -> None:
    """Before it is stopped nothing fails, and nothing once it is back; names with PEM keys never do. nginx stays as it is."""
    servers, since = site.nginx.pids(), site.daemon.log_size
    with Load((HOST, site.nginx.port), site.authority.file, [LANES], site.directory / "load") as load:
        wait_until(
            lambda: {sample.host for sample in load.samples()} >= {lane.host for lane in LANES},
            "all lanes go",
        )
        time.sleep(STEADY_S)
        stopped = time.monotonic()
        restart.stop(site)
        restart.start(site)
        back = time.monotonic()
        time.sleep(BACK_S + STEADY_S)
        load.check()
    samples = load.samples()
    failed = [sample for sample in samples if sample.error]
    assert not [sample for sample in failed if sample.host == PEM_HOST]
    outside = [sample for sample in failed if sample.ended < stopped or sample.began > back + BACK_S]
    assert not outside, [(sample.began - back, sample.error) for sample in outside]
    assert len([sample for sample in samples if sample.began > back + BACK_S]) > 20
    every_signature_is_in_the_log(site, since, samples)
    assert site.nginx.pids() == servers


def test_requests_that_are_open_when_the_agent_is_told_to_stop_are_answered(site: Site) -> None:
    """Told to stop politely, the agent finishes what it has taken: no handshake ends in the middle, unanswered."""
    with Load((HOST, site.nginx.port), site.authority.file, [LANES[:2]], site.directory / "load") as load:
        wait_until(lambda: len(load.samples()) > 50, "handshakes go on")
        mark = site.nginx.log.stat().st_size
        site.agent.stop()
        time.sleep(TIMEOUT_MS / 1000)
    log = site.nginx.log.read_bytes()[mark:].decode()
    assert "closed the connection before it answered" not in log
    assert "is the agent running?" in log


@pytest.mark.parametrize("away", ["daemon", "agent"])
def test_nginx_starts_while_something_is_away(site: Site, away: str) -> None:
    """It loads its key reference files, serves names with PEM keys at once, and the others when whoever was away is back."""
    restart = next(each for each in RESTARTS if each.name == away)
    site.nginx.stop()
    restart.stop(site)
    status, text = site.nginx.check()
    assert status == 0, text
    site.nginx.start()
    site.handshake(PEM_HOST)
    assert not site.serves()
    restart.start(site)
    assert wait_until(site.serves, "the name is served") <= BACK_S + 1


def test_a_daemon_that_comes_later_is_found_by_an_agent_that_started_without_it(site: Site) -> None:
    site.daemon.stop()
    site.agent.stop()
    site.agent.start(connected=False)
    assert not site.serves()
    site.daemon.start()
    assert wait_until(site.serves, "the name is served") <= BACK_S + 1
