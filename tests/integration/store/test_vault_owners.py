"""What a client with something in the vault cannot lose, on both databases, also while it is just beginning."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import delete

from hsmd.daemon.store import KeyState, Store, Transaction
from hsmd.daemon.store.tables import clients
from hsmd.errors import BadRequest, Conflict, NotFound, StoreFailure
from hsmd.protocol.roles import Role
from tests.support.vault_store import Owner, management_statement, stated_key


@pytest.fixture
def ann(store: Store) -> Owner:
    return Owner(store).enrol()


def rename(tx: Transaction) -> object:
    return tx.clients.rename("ann", "anna")


def take_role(tx: Transaction) -> object:
    return tx.clients.remove_role("ann", Role.OWNER)


def remove(tx: Transaction) -> object:
    return tx.clients.remove("ann")


LOSSES = {
    "rename": (
        rename,
        "^name: 'ann' has keys in the vault, or had some, and the signed statements .* have its name",
    ),
    "role": (take_role, "^role: 'ann' has keys in the vault, or had some, and keeps its right"),
    "remove": (
        remove,
        "^name: 'ann' has 2 versions of keys in the vault that are not destroyed, and would lose them",
    ),
}


@pytest.mark.parametrize(("loss", "says"), LOSSES.values(), ids=list(LOSSES))
def test_an_owner_keeps_name_role_and_row(
    ann: Owner, loss: Callable[[Transaction], object], says: str
) -> None:
    ann.store.change(lambda tx: tx.clients.add_role("ann", Role.CHECKER))
    ann.begin()
    ann.put("web")
    ann.put("web", 2)
    version = ann.store.version()
    with pytest.raises(Conflict, match=says):
        ann.store.change(loss)
    assert ann.store.version() == version
    assert ann.look().version == 2


@pytest.mark.parametrize("loss", [rename, take_role, remove])
def test_other_clients_lose_what_they_lose(ann: Owner, loss: Callable[[Transaction], object]) -> None:
    ann.store.change(lambda tx: tx.clients.add_role("ann", Role.CHECKER))
    Owner(ann.store, "bob").enrol().begin()
    ann.store.change(loss)


def test_an_owner_whose_keys_are_destroyed_can_be_removed(ann: Owner, now: datetime) -> None:
    ann.begin()
    ann.put("web")
    with pytest.raises(Conflict, match="'ann' has 1 version of keys in the vault that is not destroyed"):
        ann.store.change(remove)
    ann.destroy("web")
    for loss in (rename, take_role):
        with pytest.raises((Conflict, BadRequest)):
            ann.store.change(loss)
    row = ann.look().owner_row
    digest = ann.look().key
    ann.store.change(remove)
    again = Owner(ann.store).enrol(now)
    for missing in (lambda: again.look(), lambda: again.get()):
        with pytest.raises(NotFound):
            missing()
    assert ann.store.query(lambda tx: tx.vault_keys.page("ann")).items == ()
    again.begin(seed=b"again")
    again.put("web", key="new")
    assert again.look().owner_row != row
    (tombstone,) = ann.store.query(lambda tx: tx.vault_versions.find(row, digest))
    assert (tombstone.owner, tombstone.management_state) == ("ann", KeyState.RETIRED)


def test_what_bypasses_the_rules_is_refused_by_the_database(ann: Owner) -> None:
    """A daemon of an earlier release knows nothing of the vault."""
    ann.begin()
    with pytest.raises((Conflict, StoreFailure)), ann.store.write() as tx:
        tx.connection.execute(delete(clients).where(clients.c.name == "ann"))
    assert ann.store.query(lambda tx: tx.vault_keys.active("ann")) is not None


@pytest.mark.parametrize(("loss", "says"), LOSSES.values(), ids=list(LOSSES))
def test_a_loss_waits_for_a_beginning(
    make_store: Callable[[], Store],
    ann: Owner,
    now: datetime,
    loss: Callable[[Transaction], object],
    says: str,
) -> None:
    ann.store.change(lambda tx: tx.clients.add_role("ann", Role.CHECKER))
    other = make_store()
    with ThreadPoolExecutor(1) as pool:
        with ann.store.write(versioned=False) as tx:
            tx.vault_keys.register("ann", stated_key(management_statement("ann")), now)
            losing = pool.submit(other.change, loss)
            with pytest.raises(TimeoutError):
                losing.result(0.2)
        if loss is remove:  # nothing is deposited
            losing.result(30)
            return
        with pytest.raises(Conflict, match=says):
            losing.result(30)


@pytest.mark.parametrize(("loss", "error"), [(rename, NotFound), (take_role, BadRequest), (remove, NotFound)])
def test_a_beginning_waits_for_a_loss(
    make_store: Callable[[], Store],
    ann: Owner,
    now: datetime,
    loss: Callable[[Transaction], object],
    error: type[Exception],
) -> None:
    ann.store.change(lambda tx: tx.clients.add_role("ann", Role.CHECKER))
    begin = lambda tx: tx.vault_keys.register("ann", stated_key(management_statement("ann")), now)  # noqa: E731
    other = make_store()
    with ThreadPoolExecutor(1) as pool:
        with ann.store.write() as tx:
            loss(tx)
            beginning = pool.submit(other.change, begin, versioned=False)
            with pytest.raises(TimeoutError):
                beginning.result(0.2)
        with pytest.raises(error):
            beginning.result(30)
