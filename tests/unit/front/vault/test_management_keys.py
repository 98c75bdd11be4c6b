"""What clients cannot make a daemon do: read more than leaves in one answer, or crowd events of others out of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import management_keys
from hsmd.daemon.front.vault.management_keys import (
    FURTHER_BYTES,
    MOST_READ_BYTES,
    REGISTRATION_RETRY_S,
    REGISTRATIONS,
    ManagementKeys,
)
from hsmd.daemon.store import Readers, Store
from hsmd.envelopes.vault import signing
from hsmd.errors import Overloaded
from hsmd.protocol import messages
from hsmd.protocol.messages import VaultRekeyList, VaultRekeyPage, VaultSealed
from hsmd.protocol.roles import Role
from hsmd.system.pages import fitting
from tests.support import vault
from tests.support.store import NOW
from tests.support.vault_store import Owner


class Proven:
    """Proofs of which each counts."""

    async def check(self, *_: Any) -> None: ...

    def check_wrapping(self, *_: Any) -> None: ...


async def test_envelopes_that_do_not_fit_into_the_answer_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    owner = Owner(store).enrol()
    owner.begin()
    for number in range(5):
        owner.put(f"record-{number}")
    owner.replace()
    audit = AuditLog.open(tmp_path / "audit")
    keys = ManagementKeys(cache=SnapshotCache(store), proofs=Proven(), signer=None, audit=audit)  # type: ignore[arg-type]
    caller = Identity(owner.name, frozenset({Role.OWNER}), KeyCredential("F1"))

    async def read(after: str = "", limit: int = 100) -> tuple[list[str], bool]:
        page = await keys.still_sealed(caller, VaultRekeyList(after, limit))
        return [version.record for version, *_ in page.items], page.more

    assert await read() == ([f"record-{number}" for number in range(5)], False)
    assert await read(limit=3) == ([f"record-{number}" for number in range(3)], True)
    size = (
        sum(map(len, (await keys.still_sealed(caller, VaultRekeyList(limit=1))).items[0][1:])) + FURTHER_BYTES
    )
    monkeypatch.setattr(management_keys, "MOST_READ_BYTES", 2 * size + 10)
    assert await read() == (["record-0", "record-1"], True)
    assert await read("record-3/1") == (["record-4"], False)
    monkeypatch.setattr(management_keys, "MOST_READ_BYTES", 1)
    assert await read("record-1/1") == (["record-2"], True)
    await audit.close()
    store.close()


def test_what_is_read_fits_into_the_answer() -> None:
    """Or records would say that more was read than has left."""
    for envelope, text in ((16_384, 8_192), (1, 1), (700, 600)):
        count = MOST_READ_BYTES // (envelope + text + 64 + FURTHER_BYTES)
        sealed = VaultSealed("r" * 64, 1_000_000_000, bytes(envelope), bytes(text), bytes(64))
        items, more = fitting([sealed] * count, more=False)
        assert (len(items), more) == (count, False)
        assert messages.encode_result(VaultRekeyPage(items, more=True))


async def test_a_login_without_a_management_key_crowds_no_events_out(tmp_path: Path) -> None:
    """Each registration is an event for operators, and takes the place of the key that waited."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.change(lambda tx: tx.clients.add("owen", frozenset({Role.OWNER}), NOW))
    audit = AuditLog.open(tmp_path / "audit")
    clock = 0.0
    keys = ManagementKeys(
        cache=SnapshotCache(store),
        proofs=Proven(),
        signer=None,
        audit=audit,
        clock=lambda: clock,  # type: ignore[arg-type]
    )
    caller = Identity("owen", frozenset({Role.OWNER}), KeyCredential("F1"))

    async def register() -> None:
        text = (owner := vault.Owner("owen")).statement.encode()
        await keys.register(
            caller, messages.VaultRegister(text, owner.sign(signing.Kind.MANAGEMENT_KEY, text))
        )

    for _ in range(REGISTRATIONS):
        await register()
    with pytest.raises(Overloaded):
        await register()
    clock = REGISTRATION_RETRY_S
    await register()
    with pytest.raises(Overloaded):
        await register()
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.OPERATOR})), None))
    assert [each.kind for each in page.events].count("vault.registered") == REGISTRATIONS + 1
    await audit.close()
    store.close()
