"""Rows of management keys: registered, confirmed, replaced, retired; within one transaction.

Signatures were verified before; what is decided here is what two concurrent requests could both pass: numbers, and that no
key is retired with deposits under it.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)

from hsmd.daemon.store.records import Page
from hsmd.daemon.store.tables import vault_management_keys, vault_owners, vault_records, vault_versions
from hsmd.daemon.store.vault_events import VaultEvents
from hsmd.daemon.store.vault_owner_rows import VaultOwners, no_management_key
from hsmd.daemon.store.vault_quotas import MAX_MANAGEMENT_KEYS
from hsmd.daemon.store.vault_records import KeyState, ManagementKeyRecord, StatedKey
from hsmd.errors import BadRequest, Conflict, NotFound

IS_SEALED: ColumnElement[bool] = vault_versions.c.standing != literal_column("'destroyed'")
"""Whether a version has an envelope. A literal, as in the index of versions by management key, which is used only so."""
_IS_ACTIVE: ColumnElement[bool] = vault_management_keys.c.state == literal_column("'active'")
"""As in the index of active keys by owner."""


class HeldKeys(NamedTuple):
    """Keys that are held after a restore, of some owners."""

    keys: tuple[ManagementKeyRecord, ...]
    last: int | None
    """Row id of the last one of these owners; None if there are no others."""


class VaultKeys:
    """The management keys of owners. At most one of an owner's is pending, one active, and one replaced."""

    def __init__(self, connection: Connection, owners: VaultOwners, events: VaultEvents) -> None:
        self._connection = connection
        self._owners = owners
        self._events = events

    def register(self, owner: str, stated: StatedKey, now: datetime) -> ManagementKeyRecord:
        """Add a key that waits for an operator, in the place of one that waits already.

        It is the first one, or begins again after a loss: its number is one more than the highest, and `previous` is empty
        or the digest of that one. Raises NotFound, BadRequest (role), Conflict (number).
        """
        row = self._owners.begin(owner)
        self._drop_pending(row.owner_id)
        newest = self._newest(row.owner_id)
        _check_owner(owner, stated)
        self._check_number(newest, stated)
        if stated.statement.previous not in ("", newest.digest.hex() if newest else ""):
            raise Conflict(
                "text: previous is neither empty nor the digest of the newest management key; state it anew"
            )
        found = self._add(row.owner_id, stated, KeyState.PENDING, now)
        self._events.registered(found, now)
        return found

    def confirm(self, owner: str, digest: bytes, note: str, now: datetime) -> ManagementKeyRecord:
        """Make a pending key the active one, or end the hold of the active one and of the one that it replaces.

        `note` is the daemon's statement that an operator confirmed it. Keys in use before a pending one are lost, because they
        do not vouch for it. Raises NotFound if no key with this digest waits.
        """
        waits = None
        if (row := self._owners.find(owner)) is not None:
            self._owners.locked(owner)
            waits = self._waits(row.owner_id, digest)
        if row is None or waits is None:
            raise NotFound(
                f"fingerprint: no management key of {owner[:64]!r} with this fingerprint waits for a confirmation; "
                f"`hsmd vault keys` shows those that do"
            )
        if waits.state is KeyState.PENDING:
            self._move(row.owner_id, (KeyState.ACTIVE, KeyState.REPLACED), KeyState.LOST)
        self._release(row.owner_id)
        same = vault_management_keys.c.id == waits.row
        changed = update(vault_management_keys).where(same)
        self._connection.execute(changed.values(state=KeyState.ACTIVE.value, confirmation=note))
        found = self._by(same)[0]
        self._events.confirmed(found, now)
        return found

    def replace(self, owner: str, stated: StatedKey, now: datetime) -> ManagementKeyRecord:
        """Make a key the active one for which the one before vouches; that one is replaced until `finish`.

        A key that waits for an operator is dropped. Raises Conflict if no key is active, if the statement does not continue
        it, or if deposits are left under a key that was replaced before.
        """
        row = self._owners.locked(owner)
        self._drop_pending(row.owner_id)
        active = self._one(row.owner_id, KeyState.ACTIVE)
        if active is None:
            raise no_management_key(owner)
        self._retire_replaced(active, now)
        _check_owner(owner, stated)
        self._check_number(self._newest(row.owner_id), stated)
        if stated.statement.previous != active.digest.hex():
            raise Conflict("text: previous is not the digest of the active management key; state it anew")
        self._move(row.owner_id, (KeyState.ACTIVE,), KeyState.REPLACED)
        found = self._add(row.owner_id, stated, KeyState.ACTIVE, now)
        self._events.replaced(found, active, now, finished=False)
        return found

    def finish(self, owner: str, now: datetime) -> ManagementKeyRecord:
        """Retire the key that was replaced. Raises Conflict if there is none, or while deposits are left under it."""
        row = self._owners.locked(owner)
        active, replaced = (self._one(row.owner_id, state) for state in (KeyState.ACTIVE, KeyState.REPLACED))
        if active is None or replaced is None:
            raise Conflict(f"owner: no management key of {owner!r} is being replaced")
        self._retire_replaced(active, now)
        return self._by(vault_management_keys.c.id == replaced.row)[0]

    # --- reading ---

    def page(self, owner: str, before: int = 0, limit: int = 100) -> Page[ManagementKeyRecord]:
        """At most `limit` keys of an owner with their deposits, the newest first, of those before number `before` (0: all)."""
        row = self._owners.find(owner)
        if row is None:
            return Page((), more=False)
        older = vault_management_keys.c.number < before if before else true()
        mine = vault_management_keys.c.owner_id == row.owner_id
        query = _ROWS.where(mine, older).order_by(vault_management_keys.c.number.desc())
        rows = self._connection.execute(query.limit(limit + 1)).all()
        deposits = self._deposits([row.id for row in rows])
        return Page.cut([_record(row, deposits.get(row.id, 0)) for row in rows], limit)

    def active(self, owner: str) -> ManagementKeyRecord | None:
        """The key that proves, signs and takes deposits."""
        return self._of_state(owner, KeyState.ACTIVE)

    def pending(self, owner: str) -> ManagementKeyRecord | None:
        """The key that waits for an operator."""
        return self._of_state(owner, KeyState.PENDING)

    def replaced(self, owner: str) -> ManagementKeyRecord | None:
        """The key whose deposits are being re-wrapped."""
        return self._of_state(owner, KeyState.REPLACED)

    def by_digest(self, owner: str, digest: bytes) -> ManagementKeyRecord | None:
        """The key of an owner with this digest of its statement."""
        owner_id = self._owners.id_of(owner)
        if owner_id is None:
            return None
        return self._only(_BY_DIGEST, owner=owner_id, digest=digest)

    def count_held(self) -> int:
        """How many active keys, of all owners, are held after a restore."""
        held = (vault_management_keys.c.state == KeyState.ACTIVE.value) & vault_management_keys.c.held
        query = select(func.count()).select_from(vault_management_keys).where(held)
        return self._connection.scalar(query) or 0

    def count_pending(self) -> int:
        """How many keys, of all owners, wait for an operator."""
        pending = vault_management_keys.c.state == KeyState.PENDING.value
        return (
            self._connection.scalar(select(func.count()).select_from(vault_management_keys).where(pending))
            or 0
        )

    def held(self, after: int, limit: int) -> HeldKeys:
        """Of the next `limit` owners behind the row id `after`, the active keys that are held after a restore."""
        owners = select(vault_owners.c.owner_id).where(vault_owners.c.owner_id > after)
        ids = list(self._connection.scalars(owners.order_by(vault_owners.c.owner_id).limit(limit)))
        mine = vault_management_keys.c.owner_id.in_(ids)
        rows = self._connection.execute(_ROWS.where(mine, _IS_ACTIVE)).all() if ids else []
        return HeldKeys(
            tuple(_record(row) for row in rows if row.held), ids[-1] if len(ids) == limit else None
        )

    def tell_held(self, after: int, limit: int, now: datetime) -> None:
        """Append an event about each key in `held`, unless there was one since the restore."""
        self._events.held(self.held(after, limit).keys, now)

    def _of_state(self, owner: str, state: KeyState) -> ManagementKeyRecord | None:
        owner_id = self._owners.id_of(owner)
        return None if owner_id is None else self._one(owner_id, state)

    def _one(self, owner_id: int, state: KeyState) -> ManagementKeyRecord | None:
        return self._only(_BY_STATE, owner=owner_id, state=state.value)

    def _only(self, query: Select[Any], **values: object) -> ManagementKeyRecord | None:
        found = self._connection.execute(query, values).first()
        return None if found is None else _record(found)

    def _newest(self, owner_id: int) -> ManagementKeyRecord | None:
        mine = vault_management_keys.c.owner_id == owner_id
        number = select(func.max(vault_management_keys.c.number)).where(mine).scalar_subquery()
        return next(iter(self._by(mine & (vault_management_keys.c.number == number))), None)

    def _by(self, which: ColumnElement[bool]) -> list[ManagementKeyRecord]:
        """Keys by number. Their deposits are not counted: an owner can have thousands, and this is asked at each proof."""
        rows = self._connection.execute(_ROWS.where(which).order_by(vault_management_keys.c.number))
        return [_record(row) for row in rows]

    def _deposits(self, key_ids: list[int]) -> dict[int, int]:
        """How many envelopes are sealed to each of these keys."""
        query = select(vault_versions.c.management_id, func.count()).where(
            vault_versions.c.management_id.in_(key_ids), IS_SEALED
        )
        return {
            row[0]: row[1] for row in self._connection.execute(query.group_by(vault_versions.c.management_id))
        }

    # --- writing ---

    def _check_number(self, newest: ManagementKeyRecord | None, stated: StatedKey) -> None:
        due = newest.number + 1 if newest else 1
        if stated.statement.number != due:
            raise Conflict(
                f"text: the next management key of {stated.statement.owner} has the number {due}, not "
                f"{stated.statement.number}; state it anew"
            )
        if due > MAX_MANAGEMENT_KEYS:
            raise BadRequest(f"text: an owner has at most {MAX_MANAGEMENT_KEYS} management keys")

    def _add(self, owner_id: int, stated: StatedKey, state: KeyState, now: datetime) -> ManagementKeyRecord:
        new = {
            "owner_id": owner_id,
            "number": stated.statement.number,
            "digest": sha256(stated.text).digest(),
            "suite": stated.statement.suite.value,
            "state": state.value,
            "text": stated.text,
            "signature": stated.signature,
            "succession": stated.succession,
            "confirmation": "",
            "created_at": now,
        }
        self._connection.execute(insert(vault_management_keys).values(new))
        found = self._newest(owner_id)
        assert found is not None, "it was inserted"
        return found

    def _move(self, owner_id: int, states: tuple[KeyState, ...], state: KeyState) -> None:
        mine = vault_management_keys.c.owner_id == owner_id
        before = vault_management_keys.c.state.in_([each.value for each in states])
        self._connection.execute(update(vault_management_keys).where(mine, before).values(state=state.value))

    def _waits(self, owner_id: int, digest: bytes) -> ManagementKeyRecord | None:
        """The key with this digest that an operator may confirm: the pending one, or the active one while it is held."""
        pending, active = (self._one(owner_id, state) for state in (KeyState.PENDING, KeyState.ACTIVE))
        waiting = (pending, active if active is not None and active.held else None)
        return next((key for key in waiting if key is not None and key.digest == digest), None)

    def _release(self, owner_id: int) -> None:
        """End the hold of all keys of an owner: an operator has confirmed which one is active."""
        mine = vault_management_keys.c.owner_id == owner_id
        held = vault_management_keys.c.held
        self._connection.execute(update(vault_management_keys).where(mine, held).values(held=False))

    def _drop_pending(self, owner_id: int) -> None:
        """Remove a key that waits for an operator: nothing was signed or sealed with it here."""
        mine = vault_management_keys.c.owner_id == owner_id
        waits = vault_management_keys.c.state == KeyState.PENDING.value
        self._connection.execute(delete(vault_management_keys).where(mine, waits))

    def _retire_replaced(self, active: ManagementKeyRecord, now: datetime) -> None:
        """Retire the key that the active one has replaced, if there is one."""
        replaced = self._one(active.owner_row, KeyState.REPLACED)
        if replaced is None:
            return
        deposits = self._deposits([replaced.row]).get(replaced.row, 0)
        if deposits:
            raise Conflict(
                f"owner: {deposits} deposit{'s' * (deposits > 1)} under the management key number "
                f"{replaced.number} must be wrapped for the active one, {self._first_under(replaced.row)} first; go on with "
                "`hsmd vault rekey`"
            )
        self._move(active.owner_row, (KeyState.REPLACED,), KeyState.RETIRED)
        self._events.replaced(active, replaced, now, finished=True)

    def _first_under(self, key_id: int) -> str:
        query = (
            select(vault_records.c.name, vault_versions.c.version)
            .join(vault_records, vault_records.c.id == vault_versions.c.record_id)
            .where(vault_versions.c.management_id == key_id, IS_SEALED)
            .order_by(vault_versions.c.id)
        )
        name, version = self._connection.execute(query.limit(1)).one()
        return f"{name} version {version}"


def _check_owner(owner: str, stated: StatedKey) -> None:
    if stated.statement.owner != owner:
        raise BadRequest(f"text: it is a statement of {stated.statement.owner}, not of {owner}")


_ROWS = select(vault_management_keys, vault_owners.c.name.label("owner")).join(
    vault_owners, vault_owners.c.owner_id == vault_management_keys.c.owner_id
)
_OF_OWNER = _ROWS.where(vault_management_keys.c.owner_id == bindparam("owner")).order_by(
    vault_management_keys.c.number
)
_BY_DIGEST = _OF_OWNER.where(vault_management_keys.c.digest == bindparam("digest"))
_BY_STATE = _OF_OWNER.where(vault_management_keys.c.state == bindparam("state"))


def _record(row: Row[Any], deposits: int = 0) -> ManagementKeyRecord:
    return ManagementKeyRecord(
        owner=row.owner,
        number=row.number,
        digest=bytes(row.digest),
        suite=row.suite,
        text=bytes(row.text),
        signature=bytes(row.signature),
        succession=bytes(row.succession),
        state=KeyState(row.state),
        confirmation=row.confirmation,
        created_at=row.created_at,
        deposits=deposits,
        held=row.held,
        row=row.id,
        owner_row=row.owner_id,
    )
