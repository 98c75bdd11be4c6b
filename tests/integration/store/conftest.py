"""Fixtures for stores on both databases, and for records."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from hsmd.daemon.store import CredentialRecord, KeyRecord, Store
from tests.support.postgresql import Cluster
from tests.support.store import NOW, key_record


@pytest.fixture
def make_store(empty_url: str) -> Iterator[Callable[[], Store]]:
    """Makes stores on one migrated database, as several daemons would."""
    made: list[Store] = []

    def make() -> Store:
        made.append(Store(empty_url))
        return made[-1]

    make().migrate()
    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


@pytest.fixture
def restored(
    request: pytest.FixtureRequest, empty_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[bytes], Store]]:
    """Restores exports, each into an empty database of the same kind."""
    made: list[Store] = []

    def restore(document: bytes) -> Store:
        if empty_url.startswith("sqlite"):
            url = f"sqlite:///{tmp_path_factory.mktemp('restored')}/store.db"
        else:
            cluster: Cluster = request.getfixturevalue("cluster")
            database = f"restored_{secrets.token_hex(8)}"
            cluster.run(f"CREATE DATABASE {database}")
            url = cluster.url(database)
        made.append(Store(url))
        made[-1].restore(document)
        return made[-1]

    yield restore
    for store in made:
        store.close()


@pytest.fixture
def make_key() -> Callable[..., KeyRecord]:
    return key_record


@pytest.fixture
def make_credential() -> Callable[[str], CredentialRecord]:
    def make(seed: str) -> CredentialRecord:
        return CredentialRecord("SHA256:" + seed.ljust(43, "x"), f"ssh-ed25519 {seed}")

    return make


@pytest.fixture
def now() -> datetime:
    return NOW
