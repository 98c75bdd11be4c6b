"""Agent and daemon are restarted during handshakes, and nginx is started while one of them is stopped."""

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
    """How to stop a component, and how to start it again."""

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
def test_only_handshakes_in_flight_fail_during_a_restart(site: Site, restart: Restart) -> None:
    """No handshake fails before the stop or after the restart; names with PEM keys never fail. nginx is not restarted."""
    servers, since = site.nginx.pids(), site.daemon.log_size
    with Load((HOST, site.nginx.port), site.authority.file, [LANES], site.directory / "load") as load:
        wait_until(
            lambda: {sample.host for sample in load.samples()} >= {lane.host for lane in LANES},
            "every lane has samples",
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


def test_open_requests_are_answered_when_the_agent_stops(site: Site) -> None:
    """On SIGTERM, the agent completes the requests it has received: none is left without an answer."""
    with Load((HOST, site.nginx.port), site.authority.file, [LANES[:2]], site.directory / "load") as load:
        wait_until(lambda: len(load.samples()) > 50, "handshakes continue")
        mark = site.nginx.log.stat().st_size
        site.agent.stop()
        time.sleep(TIMEOUT_MS / 1000)
    log = site.nginx.log.read_bytes()[mark:].decode()
    assert "closed the connection before it answered" not in log
    assert "is the agent running?" in log


@pytest.mark.parametrize("away", ["daemon", "agent"])
def test_nginx_starts_while_agent_or_daemon_is_stopped(site: Site, away: str) -> None:
    """It loads its key reference files, serves names with PEM keys immediately, and the others once the component is back."""
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


def test_an_agent_started_first_finds_the_daemon_later(site: Site) -> None:
    site.daemon.stop()
    site.agent.stop()
    site.agent.start(connected=False)
    assert not site.serves()
    site.daemon.start()
    assert wait_until(site.serves, "the name is served") <= BACK_S + 1
