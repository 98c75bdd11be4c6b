"""To suspend and to resume without end would crowd the events of others out of the ledger, which keeps a limited number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import deposits
from hsmd.daemon.front.vault.deposits import RESUMPTION_RETRY_S, Deposits
from hsmd.daemon.store import Store
from hsmd.errors import Overloaded
from hsmd.protocol.messages import VaultResume, VaultSuspend
from hsmd.protocol.roles import Role
from tests.support.vault_store import Owner


class Proven:
    """Proofs of which each counts."""

    async def check(self, *_: Any) -> None: ...


async def test_versions_are_resumed_at_a_limited_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deposits, "RESUMPTIONS", 2)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    owner = Owner(store).enrol()
    owner.begin()
    owner.put("www")
    clock = 0.0
    unused: Any = None
    served = Deposits(
        cache=SnapshotCache(store), proofs=Proven(), trust=unused, alterations=unused, audit=unused,  # type: ignore[arg-type]
        clock=lambda: clock,
    )  # fmt: skip
    caller = Identity(owner.name, frozenset({Role.OWNER}), KeyCredential("F1"))
    for _ in range(2):
        await served.suspend(caller, VaultSuspend("www", 1))
        await served.resume(caller, VaultResume("www", 1))
    assert (await served.suspend(caller, VaultSuspend("www", 1))).suspended_at
    with pytest.raises(Overloaded):
        await served.resume(caller, VaultResume("www", 1))
    clock = RESUMPTION_RETRY_S
    assert not (await served.resume(caller, VaultResume("www", 1))).suspended_at
    store.close()
