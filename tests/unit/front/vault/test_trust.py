"""Management keys and versions count as far as signatures go, from the note of a daemon on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.front.vault.trust import Altered, ProvenKeys, Trust
from hsmd.daemon.store import KeyState, ManagementKeyRecord
from hsmd.envelopes.vault import signing
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.fields import format_time
from hsmd.errors import ProofInvalid
from tests.support.vault import Owner

NOW = datetime.now(UTC)


class Anchors:
    """Takes the text of a confirmation itself for its note."""

    def read(self, note: str, kind: str) -> Any:
        if not note.startswith("note\n"):
            raise ProofInvalid("no note")
        return SimpleNamespace(lines=tuple(note.splitlines()[1:]))


class Keys:
    """The rows of management keys in a transaction."""

    def __init__(self, *records: ManagementKeyRecord) -> None:
        self.vault_keys = self
        self.records = list(records)
        self.reads = 0

    def by_digest(self, owner: str, digest: bytes) -> ManagementKeyRecord | None:
        self.reads += 1
        return next((each for each in self.records if (each.owner, each.digest) == (owner, digest)), None)

    def active(self, owner: str) -> ManagementKeyRecord | None:
        return next((each for each in self.records if each.state is KeyState.ACTIVE), None)


def note_of(by: Owner, **changes: Any) -> str:
    said = Confirmation(by.name, by.statement.digest.hex(), by.number, "operator", format_time(NOW))
    return "\n".join(["note", *replace(said, **changes).lines()])


def row(of: Owner, *, note: str = "", succession: bytes = b"", **changes: Any) -> ManagementKeyRecord:
    text = of.statement.encode()
    record = ManagementKeyRecord(
        of.name,
        of.number,
        of.statement.digest,
        of.suite.value,
        text,
        of.sign(signing.Kind.MANAGEMENT_KEY, text),
        succession,
        KeyState.ACTIVE,
        note,
        NOW,
    )
    return replace(record, **changes)


def succession(old: Owner, new: Owner) -> bytes:
    return old.sign(signing.Kind.MANAGEMENT_KEY, new.statement.encode())


@pytest.fixture
def trust() -> Trust:
    return Trust(Anchors())  # type: ignore[arg-type]


FIRST = Owner()
SECOND = FIRST.successor()
THIRD = SECOND.successor()
CHAIN = (
    row(FIRST, note=note_of(FIRST)),
    row(SECOND, succession=succession(FIRST, SECOND)),
    row(THIRD, succession=succession(SECOND, THIRD)),
)


def test_a_confirmed_key_and_those_that_succeed_it_count(trust: Trust) -> None:
    tx: Any = Keys(*CHAIN)
    for record, owner in zip(CHAIN, (FIRST, SECOND, THIRD), strict=True):
        for _ in range(2):
            assert trust.key(tx, FIRST.name, record).statement == owner.statement


def test_a_restart_counts_by_its_own_confirmation(trust: Trust) -> None:
    restarted = Owner(number=2)
    record = row(restarted, note=note_of(restarted))
    tx: Any = Keys(CHAIN[0], record)
    assert trust.key(tx, restarted.name, record).digest == restarted.statement.digest


OTHER = Owner("eve")


@pytest.mark.parametrize(
    "chain",
    [
        (row(FIRST),),
        (row(FIRST, note="forged"),),
        (row(FIRST, note=note_of(OTHER)),),
        (row(FIRST, note=note_of(FIRST, number=2)),),
        (row(FIRST, note=note_of(FIRST, owner="eve")),),
        (row(OTHER, note=note_of(OTHER), owner=FIRST.name),),
        (row(FIRST, note=note_of(FIRST), number=2),),
        (row(FIRST, note=note_of(FIRST), digest=bytes(32)),),
        (row(FIRST, note=note_of(FIRST), signature=OTHER.sign(signing.Kind.MANAGEMENT_KEY, b"")),),
        (row(FIRST, note=note_of(FIRST), text=b"{}"),),
        (CHAIN[1],),
        (CHAIN[0], row(SECOND, succession=b"")),
        (CHAIN[0], row(SECOND, succession=succession(OTHER, SECOND))),
        (CHAIN[0], CHAIN[2]),
        (row(FIRST, note="forged"), CHAIN[1]),
        (row(FIRST), CHAIN[1]),
        (row(FIRST, number=5), CHAIN[1]),
    ],
)
def test_whatever_is_not_proven_does_not_count(trust: Trust, chain: tuple[ManagementKeyRecord, ...]) -> None:
    with pytest.raises(Altered, match="nothing proves that it is the owner's"):
        trust.key(Keys(*chain), FIRST.name, chain[-1])  # type: ignore[arg-type]


def test_what_was_proven_once_is_proven_by_its_bytes_only(trust: Trust) -> None:
    """A remembered key does not make another row with its digest count."""
    tx: Any = Keys(*CHAIN)
    trust.key(tx, FIRST.name, CHAIN[1])
    altered = row(SECOND, succession=succession(OTHER, SECOND))
    with pytest.raises(Altered):
        trust.key(Keys(CHAIN[0], altered), FIRST.name, altered)  # type: ignore[arg-type]


def test_a_key_of_another_owner_does_not_count_under_this_ones_name(trust: Trust) -> None:
    genuine = row(OTHER, note=note_of(OTHER))
    tx: Any = Keys(genuine)
    assert trust.key(tx, OTHER.name, genuine).statement == OTHER.statement
    with pytest.raises(Altered, match=f"management key 1 of {FIRST.name}"):
        trust.key(tx, FIRST.name, genuine)
    with pytest.raises(Altered):
        trust.active(tx, FIRST.name)


def test_a_key_that_was_proven_costs_no_walk_again(trust: Trust) -> None:
    tx: Any = Keys(*CHAIN)
    trust.key(tx, FIRST.name, CHAIN[1])
    tx.reads = 0
    trust.key(tx, FIRST.name, CHAIN[2])
    assert tx.reads == 1, "the one before it was proven"
    trust.key(tx, FIRST.name, CHAIN[2])
    assert tx.reads == 1


def test_what_is_remembered_of_keys_is_bounded() -> None:
    proven = ProvenKeys(2)
    for record, owner in zip(CHAIN, (FIRST, SECOND, THIRD), strict=True):
        proven.add(record, owner.statement)
    assert [proven.get(record) for record in CHAIN] == [None, SECOND.statement, THIRD.statement]
