"""Errors of a store whose database is unreachable, damaged or misnamed, and what their texts never contain."""

from __future__ import annotations

import logging
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import text

from hsmd.daemon.store import KeyRecord, Store, engine
from hsmd.errors import ConfigurationError, Conflict, HsmdError, StoreFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.postgresql import Cluster

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"postgresql://user:{SECRET}@host:port/database",
        f"mysql://user:{SECRET}@host/database",
        f"postgresql+asyncpg://user:{SECRET}@host/database",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////x.db?mode=memory",
    ],
)
def test_a_wrong_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        Store(url)
    said = "".join(traceback.format_exception(failure.value)) + repr(failure.value)
    assert "store.url" in failure.value.text
    assert SECRET not in said


@pytest.mark.parametrize(
    "place", ["127.0.0.1:1/database", f"/database?host=/nowhere&application_name={SECRET[:6]}"]
)
def test_a_database_that_is_away(
    place: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    store = Store(f"postgresql+psycopg://user:{SECRET}@{place}")
    for action in (
        store.version,
        store.load,
        store.migrate,
        lambda: store.query(lambda tx: tx.keys.get("a")),
        lambda: store.change(lambda tx: tx.keys.remove("a")),
    ):
        with pytest.raises(StoreFailure) as failure:
            action()
        assert failure.value.text == "the store cannot be reached"
        assert "OperationalError" in failure.value.detail
        said = "".join(traceback.format_exception(failure.value)) + repr(failure.value) + failure.value.detail
        assert SECRET not in said
        assert "SELECT" not in said
        assert "UPDATE" not in said
    assert SECRET not in repr(store) + caplog.text + "".join(capfd.readouterr())
    store.close()


def test_a_password_that_the_driver_repeats_is_masked() -> None:
    url = engine.parse_url(f"postgresql+psycopg://user:{SECRET}@host/database")
    said = engine._describe(engine.ArgumentError(f"cannot use {SECRET}"), url)
    assert said == "ArgumentError: cannot use ***"


def test_only_migrate_creates_the_sqlite_file(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with pytest.raises(StoreFailure):
        store.version()
    assert list(tmp_path.iterdir()) == []
    store.close()
    nowhere = Store(f"sqlite:///{tmp_path}/missing/store.db")
    with pytest.raises(StoreFailure) as failure:
        nowhere.migrate()
    assert "No such file" in failure.value.detail
    nowhere.close()


def test_a_database_without_schema(empty_url: str) -> None:
    store = Store(empty_url)
    for action in (store.version, store.load, lambda: store.change(lambda tx: tx.keys.remove("a"))):
        with pytest.raises(StoreFailure) as failure:
            action()
        assert "SELECT" not in failure.value.detail + repr(failure.value)
    store.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    for action in (store.migrate, store.version):
        with pytest.raises(StoreFailure) as failure:
            action()
        assert "not a database" in failure.value.detail
    store.close()


def test_waiting_for_a_writer_ends_after_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 0.1)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailure) as failure:
        store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert "locked" in failure.value.detail
    assert store.load().clients == ()  # readers do not wait
    holder.close()
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.close()


def test_a_waiting_writer_looks_for_a_free_lock_each_few_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    """Later than that it would be overtaken by others that write without a pause."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 200:
            holder.close()

    monkeypatch.setattr(engine, "sleep", pause)
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert len(pauses) == 200
    assert max(pauses) <= 0.005
    store.close()


@pytest.mark.parametrize(("code", "tries"), [(sqlite3.SQLITE_BUSY_RECOVERY, 3), (sqlite3.SQLITE_IOERR, 1)])
def test_a_writer_waits_while_another_process_recovers_the_store(code: int, tries: int) -> None:
    """As after the end of a daemon by SIGKILL."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    outcomes = iter([error, error, None])
    asked: list[str] = []

    class Recovering:
        def execute(self, statement: str) -> None:
            asked.append(statement)
            if statement == "BEGIN IMMEDIATE" and (failure := next(outcomes)):
                raise failure

    with suppress(sqlite3.OperationalError):
        engine._take_write_lock(cast("sqlite3.Connection", Recovering()))
    assert asked.count("BEGIN IMMEDIATE") == tries
    assert asked[-1] == "PRAGMA busy_timeout = 10000"


def test_postgresql_ends_a_wait_for_a_writer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 1)
    cluster.run("CREATE DATABASE held")
    url = cluster.url("held")
    holder, store = Store(url), Store(url)
    holder.migrate()
    with holder.write(), pytest.raises(StoreFailure) as failure:
        store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert "lock timeout" in failure.value.detail
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    holder.close()
    store.close()


def test_a_store_reconnects_after_lost_connections(cluster: Cluster, now: datetime) -> None:
    cluster.run("CREATE DATABASE losing")
    store = Store(cluster.url("losing"))
    store.migrate()
    cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'losing'")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert store.query(lambda tx: tx.clients.get("web1")).name == "web1"
    store.close()


def test_the_database_itself_refuses_invalid_rows(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    """The constraints hold even if a check in a higher layer is missing."""
    store.change(lambda tx: tx.keys.add(make_key("site")))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    key_id = "(SELECT id FROM keys WHERE name = 'site')"
    client_id = "(SELECT id FROM clients WHERE name = 'web1')"
    statements = [
        f"INSERT INTO grants (client_id, key_id, purpose) VALUES ({client_id}, {key_id}, {int(Purpose.SIGN_MESSAGE)})",
        f"INSERT INTO grants (client_id, key_id, purpose) VALUES (99, {key_id}, {int(Purpose.TLS13_SERVER)})",
        "UPDATE clients SET role = 'root'",
        "INSERT INTO state (id, version) VALUES (2, 1)",
        f"INSERT INTO credentials (fingerprint, client_id, public_key) VALUES ('x', {client_id} + 7, '')",
    ]
    for statement in statements:
        with pytest.raises(Conflict), store.write() as tx:
            tx.connection.execute(text(statement))


def test_a_row_of_a_newer_release_is_not_served(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    store.change(lambda tx: tx.keys.add(make_key("site")))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.grants.add("web1", "site", [Purpose.TLS13_SERVER]))
    with store.write() as tx:
        tx.connection.execute(text("INSERT INTO key_purposes SELECT id, 77 FROM keys"))
        tx.connection.execute(text("INSERT INTO grants SELECT client_id, key_id, 77 FROM grants"))
    assert [grant.purposes for grant in store.load().grants] == [{Purpose.TLS13_SERVER}]
    assert 77 not in store.query(lambda tx: tx.keys.get("site")).purposes
    with store.write() as tx:
        tx.connection.execute(text("UPDATE keys SET key_type = 'ml-dsa-65'"))
    with pytest.raises(StoreFailure, match="newer than this release"):
        store.load()


def test_errors_are_of_hsmd_only(store: Store) -> None:
    for action in (
        lambda: store.query(lambda tx: tx.grants.page("\x00", "", "", 1)),
        lambda: store.query(lambda tx: tx.clients.get("\ud800")),
    ):
        with pytest.raises(HsmdError):
            action()
