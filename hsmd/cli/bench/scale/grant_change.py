"""One changed grant in a store with five grants for each key: until it is decided, and what others wait meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from hsmd.cli.base.errors import CommandError
from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.site import REQUEST_S, Site
from hsmd.protocol.messages import DaemonStatus, GrantAdd, GrantRemove, Status, WhoAmI
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

FURTHER = 4
"""Grants for each key, beside the one that the site has."""
OF_A_CLIENT = 25
CHANGES = 10
CONTROL_S = 2.0
KNOWN_S = 60.0


def _measure(site: Site) -> tuple[float, ...]:
    with _further_grants(site) as client:
        calm_ms = _longest_answer(site, lambda: time.sleep(CONTROL_S))
        took: list[float] = []
        busy_ms = _longest_answer(site, lambda: took.extend(_changes(site, client)))
    return statistics.median(took), busy_ms, calm_ms


def _changes(site: Site, client: str) -> Iterator[float]:
    """Milliseconds of each change; the answer comes when the daemon decides by it."""
    with site.operator() as operator:
        for number in range(CHANGES):
            key = site.key_name(site.keys - 1 - number)
            for request in (GrantAdd(client, key, [Purpose.TLS13_SERVER.label]), GrantRemove(client, key)):
                begun = time.perf_counter()
                operator.control(request, timeout_s=REQUEST_S)
                yield (time.perf_counter() - begun) * 1000


def _longest_answer(site: Site, action: Callable[[], object]) -> float:
    """The longest time in milliseconds that another connection waits for an answer while `action` runs."""
    longest, stop = 0.0, threading.Event()

    def ask() -> None:
        nonlocal longest
        with site.operator() as other:
            while not stop.is_set():
                begun = time.perf_counter()
                other.control(WhoAmI(), timeout_s=REQUEST_S)
                longest = max(longest, time.perf_counter() - begun)
                time.sleep(0.001)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        action()
    finally:
        stop.set()
        asking.join()
    return longest * 1000


@contextmanager
def _further_grants(site: Site) -> Iterator[str]:
    """`FURTHER` grants for each key, of clients that exist inside the block, and the name of one without grants."""
    from hsmd.daemon.store import Store, tables

    store, now = Store(f"sqlite:///{site.layout.database}"), datetime.now(UTC)
    names = [f"bench-{number:04d}" for number in range(max(1, site.keys * FURTHER // OF_A_CLIENT) + 1)]
    before = _grants(site)
    with store.write() as tx:
        keys = [key.row for key in tx.keys.all() if Purpose.TLS13_SERVER in key.purposes]
        for name in names:
            tx.clients.add(name, frozenset({Role.FRONT_END}), now)
        holders = [tx.clients.find_id(name) for name in names[:-1]]
        pairs = [
            (client, at * OF_A_CLIENT + of) for at, client in enumerate(holders) for of in range(OF_A_CLIENT)
        ]
        rows = [
            {"client_id": client, "key_id": keys[place % len(keys)], "purpose": int(Purpose.TLS13_SERVER)}
            for client, place in pairs
        ]
        tx.connection.execute(tables.grants.insert(), rows)
    try:
        _wait_for_grants(site, before + (len(names) - 1) * OF_A_CLIENT)
        yield names[-1]
    finally:
        with store.write() as tx:
            for name in names:
                tx.clients.remove(name)
        store.close()
        _wait_for_grants(site, before)


def _grants(site: Site) -> int:
    with site.operator() as operator:
        status: DaemonStatus = operator.control(Status(), timeout_s=REQUEST_S)
        return status.grants


def _wait_for_grants(site: Site, number: int) -> None:
    until = time.monotonic() + KNOWN_S
    while _grants(site) != number:
        if time.monotonic() > until:
            raise CommandError(f"the daemon does not know of {number} grants", "see its log")
        time.sleep(0.1)


MEASUREMENT = Measurement(
    (
        Row("`grant add` or `grant remove`, until it is decided", "ms"),
        Row("longest wait of another connection meanwhile", "ms"),
        Row("the same without changes", "ms"),
    ),
    _measure,
)
