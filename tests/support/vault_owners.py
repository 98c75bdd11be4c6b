"""Many owners with many deposits: owners are confirmed by the daemon, deposits are signed and sealed, and written by the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from hsmd.daemon.store import Stated, Store, Transaction
from hsmd.protocol import messages
from tests.support.daemon import Daemon
from tests.support.vault import Owner, add_client, confirm


@dataclass
class Filled:
    """An owner with its deposits: the public halves, by record."""

    owner: Owner
    spkis: dict[str, bytes]


async def fill(daemon: Daemon, owners: int, records: int) -> list[Filled]:
    """Register so many owners, each of which lets checkers ask, and deposit so many keys of each."""
    filled = []
    with opened(daemon.store_url) as store:
        for number in range(owners):
            name = f"owner-{number}"
            add_client(daemon, name, "owner")
            owner = Owner(name)
            async with daemon.connection(name) as connection:
                await confirm(daemon, name, (await owner.register(connection)).fingerprint)
                await owner.ask(connection, messages.VaultAllow(checkers=True))
            spkis = store.change(partial(_deposit, owner, records), versioned=False)
            filled.append(Filled(owner, spkis))
    return filled


def _deposit(owner: Owner, records: int, tx: Transaction) -> dict[str, bytes]:
    now, signer = datetime.now(UTC), owner.statement.digest
    spkis = {}
    for number in range(records):
        deposit = owner.deposit(f"record-{number}")
        stated = Stated(deposit.statement, *owner.signed(deposit.statement), signer)
        tx.vault_records.put(owner.name, stated, deposit.envelope, deposit.spki, now)
        spkis[deposit.statement.record] = deposit.spki
    return spkis


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """A store that is closed afterwards."""
    store = Store(url)
    try:
        yield store
    finally:
        store.close()
