"""Requests that change roles, on a store: what an operator may take, and that one operator is always left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.clients import ClientHandlers
from hsmd.daemon.store import EnrolmentRecord, Store
from hsmd.errors import BadRequest, Conflict, Refused
from hsmd.protocol import messages
from hsmd.protocol.roles import Role

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"
ANN, BOB = (Identity(name, frozenset({Role.OPERATOR}), KeyCredential(name)) for name in ("ann", "bob"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/store.db")
    made.migrate()
    for each in (ANN, BOB):
        made.change(lambda tx, e=each: tx.clients.add(e.client, e.roles, NOON))  # type: ignore[misc]
    yield made
    made.close()


@pytest.fixture
def clients(store: Store) -> ClientHandlers:
    return ClientHandlers(cache=SnapshotCache(store), now=lambda: NOON)


def roles(store: Store, name: str) -> list[str]:
    return sorted(role.value for role in store.query(lambda tx: tx.clients.get(name)).roles)


async def test_a_client_is_added_with_several_roles(clients: ClientHandlers, store: Store) -> None:
    request = messages.ClientAdd("carl", "owner", role_set=["checker", "owner"])
    info = await clients.add(ANN, request, 9.0)
    assert (info.role, info.roles) == ("owner", ["owner", "checker"])
    assert roles(store, "carl") == ["checker", "owner"]
    again = messages.ClientAdd("carl", "owner", LINE, ["owner", "checker"])
    assert len((await clients.add(ANN, again, 9.0)).fingerprints) == 1
    for other in (messages.ClientAdd("carl", "owner", LINE), messages.ClientAdd("carl", public_key=LINE)):
        with pytest.raises(Conflict, match="'carl' is a client with the roles owner, checker, not"):
            await clients.add(ANN, other, 9.0)


@pytest.mark.parametrize(
    ("role", "role_set", "text"),
    [
        ("front-end", ["owner", "checker"], "role: it must be the first of the roles, owner"),
        ("checker", ["owner", "checker"], "role: it must be the first of the roles, owner"),
        ("king", [], "role: choose one of operator, auditor, front-end, owner, checker, node, depositary"),
        ("owner", ["owner", "king"], "role: choose one of"),
        ("operator", ["operator", "depositary"], "operator and depositary exclude each other"),
    ],
)
async def test_other_sets_of_roles_are_refused(
    clients: ClientHandlers, role: str, role_set: list[str], text: str
) -> None:
    with pytest.raises(BadRequest, match=text):
        await clients.add(ANN, messages.ClientAdd("carl", role, role_set=role_set), 9.0)


async def test_roles_are_added_and_removed(clients: ClientHandlers, store: Store) -> None:
    add, remove = messages.ClientRoleAdd("bob", "owner"), messages.ClientRoleRemove("bob", "operator")
    assert [(await clients.add_role(ANN, add, 9.0)).changed for _ in range(2)] == [True, False]
    assert [(await clients.remove_role(ANN, remove, 9.0)).changed for _ in range(2)] == [True, False]
    assert roles(store, "bob") == ["owner"]
    for change in (messages.ClientRoleAdd("bob", "king"), messages.ClientRoleRemove("bob", "king")):
        with pytest.raises(BadRequest, match="choose one of"):
            await (clients.add_role if isinstance(change, messages.ClientRoleAdd) else clients.remove_role)(
                ANN, change, 9.0
            )


async def test_no_operator_takes_a_role_from_itself(clients: ClientHandlers, store: Store) -> None:
    """Unless this connection does not have it: the answer reaches the operator then."""
    store.change(lambda tx: tx.clients.add_role("ann", Role.OWNER))
    both = Identity("ann", frozenset({Role.OPERATOR, Role.OWNER}), KeyCredential("ann"))
    for role in ("operator", "owner"):
        with pytest.raises(
            BadRequest, match="a role of the client you are connected as; use another operator"
        ):
            await clients.remove_role(both, messages.ClientRoleRemove("ann", role), 9.0)
    assert (await clients.remove_role(ANN, messages.ClientRoleRemove("ann", "owner"), 9.0)).changed


async def test_of_two_operators_that_remove_each_other_one_is_left(
    clients: ClientHandlers, store: Store
) -> None:
    """Both requests were admitted on a snapshot in which both are operators."""
    store.change(lambda tx: tx.clients.add_role("ann", Role.NODE))
    store.change(lambda tx: tx.clients.add_role("bob", Role.NODE))
    assert (await clients.remove_role(ANN, messages.ClientRoleRemove("bob", "operator"), 9.0)).changed
    with pytest.raises(Refused):
        await clients.remove_role(BOB, messages.ClientRoleRemove("ann", "operator"), 9.0)
    with pytest.raises(Refused):
        await clients.remove(BOB, messages.ClientRemove("ann"), 9.0)
    await clients.remove(ANN, messages.ClientRemove("bob"), 9.0)
    with pytest.raises(Refused):
        await clients.remove(BOB, messages.ClientRemove("ann"), 9.0)
    assert roles(store, "ann") == ["node", "operator"]


async def test_the_list_tells_what_is_revoked_connected_and_invited(store: Store) -> None:
    seen = {"web1": (2, NOON)}
    handlers = ClientHandlers(
        cache=SnapshotCache(store), now=lambda: NOON, activity=lambda client: seen.get(client, (0, None))
    )
    await handlers.add(ANN, messages.ClientAdd("web1", "front-end", LINE), 0.0)
    token = EnrolmentRecord("t1", "bob", b"s" * 32, NOON + timedelta(minutes=15))
    store.change(lambda tx: tx.enrolments.add(token, NOON))
    page = await handlers.list(ANN, messages.ClientList(), 0.0)
    web1, bob = (next(each for each in page.clients if each.name == name) for name in ("web1", "bob"))
    assert (web1.connections, web1.last_seen, web1.revoked, web1.invited_until) == (2, NOON, [], None)
    assert (bob.connections, bob.last_seen, bob.invited_until) == (0, None, token.expires_at)
    [fingerprint] = web1.fingerprints
    await handlers.revoke_credential(ANN, messages.ClientRevoke(fingerprint=fingerprint), 0.0)
    page = await handlers.list(ANN, messages.ClientList(), 0.0)
    assert next(each for each in page.clients if each.name == "web1").revoked == [fingerprint]
