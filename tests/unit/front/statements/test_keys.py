"""Which stored key signs statements: the oldest, until an operator has endorsed another one."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import KeyType
from hsmd.daemon.front.statements.keys import StatementKeys, material, sort_keys, verifier_keys
from hsmd.daemon.store.records import KeyRecord
from hsmd.purposes import Purpose
from hsmd.transparency.endorsement import Endorsement, sign
from tests.support.store import NOW

OPERATOR = Ed25519PrivateKey.generate()


def record(name: str, days: int) -> KeyRecord:
    public_key = (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return KeyRecord(
        name=name,
        key_type=KeyType.ED25519,
        digest=sha256(public_key).digest(),
        public_key=public_key,
        purposes=frozenset({Purpose.STATEMENT}),
        token="main",
        created_at=NOW + timedelta(days=days),
    )


FIRST, SECOND, THIRD = record("first", 0), record("second", 1), record("third", 2)
ALL = [THIRD, SECOND, FIRST]


def note(old: KeyRecord, new: KeyRecord) -> str:
    endorsement = Endorsement(material(old), material(new), "2026-01-02T03:04:05.000006Z", "why")
    return sign(endorsement, OPERATOR).render()


def names(keys: StatementKeys) -> tuple[str, list[str], list[str]]:
    signing = keys.signing.name if keys.signing else ""
    return signing, [key.name for key in keys.former], [key.name for key in keys.waiting]


def test_without_an_endorsement_the_oldest_key_signs() -> None:
    assert names(sort_keys([], [])) == ("", [], [])
    assert names(sort_keys(ALL, [])) == ("first", [], ["third", "second"])


def test_the_key_endorsed_last_signs_and_earlier_ones_are_former() -> None:
    assert names(sort_keys(ALL, [note(FIRST, THIRD)])) == ("third", ["first"], ["second"])
    assert names(sort_keys(ALL, [note(FIRST, SECOND), note(SECOND, THIRD)])) == (
        "third",
        ["second", "first"],
        [],
    )
    assert names(sort_keys(ALL, [note(FIRST, THIRD), note(THIRD, FIRST)])) == ("first", ["third"], ["second"])


def test_new_clients_pin_no_key_that_waits() -> None:
    keys = sort_keys(ALL, [note(FIRST, THIRD)])
    assert [key.name for key in keys.to_pin] == ["third", "first"]
    assert sort_keys([], []).to_pin == ()


def test_a_key_that_was_destroyed_does_not_sign() -> None:
    assert names(sort_keys([SECOND, FIRST], [note(FIRST, SECOND), note(SECOND, THIRD)]))[0] == "second"
    assert names(sort_keys([THIRD, SECOND], [note(FIRST, THIRD)])) == ("third", [], ["second"])
    assert names(sort_keys([THIRD, SECOND], [])) == ("second", [], ["third"])


def test_what_is_no_endorsement_changes_nothing() -> None:
    assert names(sort_keys(ALL, ["", "x\n", "\n\n\u2014 x y\n"])) == ("first", [], ["third", "second"])


def test_each_daemon_signs_under_its_own_name() -> None:
    lines = verifier_keys(FIRST, ["fra-1", "lon-1"])
    assert [line.split("+")[0] for line in lines] == ["hsmd.statement/fra-1", "hsmd.statement/lon-1"]
    assert {line.split("+", 2)[2] for line in lines} == {material(FIRST)}
