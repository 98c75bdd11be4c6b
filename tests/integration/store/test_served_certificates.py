"""What front ends report that they serve: kept for keys on which they have a grant, and gone with client and key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from hsmd.daemon.store import Store
from hsmd.daemon.store.records import Limits, ServedRecord
from hsmd.errors import BadRequest, HsmdError, NotFound
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.store import NOW, key_record

LATER = NOW + timedelta(hours=1)
OLD, NEW = b"\x01" * 32, b"\x02" * 32
PURPOSE = [Purpose.TLS13_SERVER]


@pytest.fixture
def filled(store: Store) -> Store:
    """web1 may use shop and mail, web2 may use shop within limits, web3 nothing."""
    with store.write() as tx:
        for name in ("shop", "mail", "bank"):
            tx.keys.add(key_record(name))
        for name in ("web1", "web2", "web3"):
            tx.clients.add(name, frozenset({Role.FRONT_END}), NOW)
        tx.grants.add("web1", "shop", PURPOSE)
        tx.grants.add("web1", "mail", PURPOSE)
        tx.limited_grants.add("web2", "shop", PURPOSE, Limits(max_uses=3), NOW)
    return store


def report(store: Store, client: str, served: dict[str, bytes], now: object = NOW) -> bool:
    return store.change(lambda tx: tx.served.report(client, served, now), versioned=False)  # type: ignore[arg-type]


def served(store: Store, key: str) -> list[ServedRecord]:
    return list(store.query(lambda tx: tx.served.of_key(key, "", 10)).items)


def test_only_keys_with_a_grant_are_kept(filled: Store) -> None:
    everything = {"shop": OLD, "mail": OLD, "bank": OLD, "unknown": OLD}
    assert filled.query(lambda tx: tx.served.differing("web1", everything)) == {"shop": OLD, "mail": OLD}
    assert report(filled, "web1", everything)
    assert not report(filled, "web3", everything)
    assert served(filled, "shop") == [ServedRecord("web1", OLD, NOW), ServedRecord("web2", b"", None)]
    assert served(filled, "bank") == []
    with pytest.raises(NotFound):
        report(filled, "nobody", everything)
    with pytest.raises(NotFound):
        served(filled, "unknown")


def test_a_repeated_report_changes_nothing_and_another_one_does(filled: Store) -> None:
    version = filled.version()
    report(filled, "web1", {"shop": OLD, "mail": OLD})
    assert filled.query(lambda tx: tx.served.differing("web1", {"shop": OLD})) == {}
    assert not report(filled, "web1", {"shop": OLD}, LATER)
    assert report(filled, "web1", {"shop": NEW, "mail": OLD}, LATER)
    assert served(filled, "shop")[0] == ServedRecord("web1", NEW, LATER)
    assert served(filled, "mail") == [ServedRecord("web1", OLD, NOW)]
    assert filled.version() == version, "no daemon reads its contents again because of a report"


def test_reports_go_with_grant_client_and_key(filled: Store) -> None:
    report(filled, "web1", {"shop": OLD})
    report(filled, "web2", {"shop": OLD})
    filled.change(lambda tx: tx.grants.remove("web1", "shop"))
    assert [each.client for each in served(filled, "shop")] == ["web2"]
    filled.change(lambda tx: tx.clients.remove("web2"))
    assert served(filled, "shop") == []
    filled.change(lambda tx: tx.keys.remove("shop"))
    filled.change(lambda tx: tx.keys.add(key_record("shop")))
    filled.change(lambda tx: tx.grants.add("web1", "shop", PURPOSE))
    assert served(filled, "shop") == [ServedRecord("web1", b"", None)]


def test_clients_come_in_pages(filled: Store) -> None:
    with filled.write() as tx:
        tx.grants.add("web3", "shop", PURPOSE)
    first = filled.query(lambda tx: tx.served.of_key("shop", "", 2))
    assert ([each.client for each in first.items], first.more) == (["web1", "web2"], True)
    rest = filled.query(lambda tx: tx.served.of_key("shop", "web2", 2))
    assert ([each.client for each in rest.items], rest.more) == (["web3"], False)
    with pytest.raises(BadRequest):
        filled.query(lambda tx: tx.served.of_key("shop", "no name!", 2))


@pytest.mark.parametrize("rounds", [10])
def test_reports_and_changes_of_keys_and_clients_do_not_wait_in_a_circle(
    filled: Store, make_store: Callable[[], Store], rounds: int
) -> None:
    """A report of known and new keys, while the keys are switched and the client is removed and added again."""
    with filled.write() as tx:
        tx.keys.add(key_record("shop.next", seed="successor"))
        tx.replacements.begin("shop", tx.keys.get("shop").digest, "shop.next", NOW)
        tx.grants.add("web1", "shop.next", PURPOSE)
    ended = threading.Event()
    failures: list[Exception] = []
    names = ("shop", "mail", "shop.next", f"shop.replaced-{NOW:%Y-%m-%d}")

    def reporting() -> None:
        other, number = make_store(), 0
        while not ended.is_set():
            number += 1
            digest = number.to_bytes(32)
            try:
                report(other, "web1", dict.fromkeys(names[number % 2 :], digest))
            except NotFound:
                continue  # the client is removed at the moment
            except Exception as error:
                failures.append(error)

    def changing() -> None:
        for _ in range(rounds):
            filled.change(lambda tx: tx.replacements.switch("shop", NOW))
            filled.change(lambda tx: tx.replacements.switch_back("shop", NOW))
            filled.change(lambda tx: tx.clients.remove("web1"))
            with filled.write() as tx:
                tx.clients.add("web1", frozenset({Role.FRONT_END}), NOW)
                for name in ("shop", "mail", "shop.next"):
                    tx.grants.add("web1", name, PURPOSE)

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(reporting) for _ in range(2)]
        try:
            threads.submit(changing).result(60)
        except HsmdError as error:
            failures.append(error)
        finally:
            ended.set()
        for each in running:
            each.result(30)
    assert [(each, each.detail) for each in failures] == []  # type: ignore[attr-defined]
