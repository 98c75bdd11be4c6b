"""Replacement of a management key: interrupted anywhere it resumes, and each version is open to the old or the new key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, ProofInvalid
from hsmd.holder import acquisitions, deposits, replacement
from hsmd.holder.changes import Changes
from hsmd.holder.deposits import SecretInMemory, Terms
from hsmd.holder.own_statements import ForeignManagementKey
from hsmd.holder.proving import Prover
from hsmd.holder.replacement import Replacement
from hsmd.holder.seen import Seen
from hsmd.protocol.messages import VaultGet, VaultKeys, VaultRekeyList, VaultRekeyPage
from tests.support.fake_vault import FakeVault
from tests.support.holder import NOW, management_key

COUNT = 7


@pytest.fixture
def full(vault: FakeVault, prover: Prover, seen: Seen) -> FakeVault:
    for number in range(COUNT):
        secret = SecretInMemory(bytes([number]) * 32)
        deposits.put(prover, seen, secret, f"record-{number}", Terms(max_uses=1 + number), NOW)
    return vault


def run(vault: FakeVault, seen: Seen) -> replacement.Replaced:
    return Replacement(vault, management_key(number=1), management_key(number=2), seen).run(lambda: NOW)


def opened_by_one(vault: FakeVault) -> int:
    """How many versions only the new key opens; each is opened by exactly one of the two."""
    fresh = 0
    for (record, _), version in vault.versions.items():
        envelope = Envelope.decode(version.envelope)
        secret = bytes([int(record.partition("-")[2])]) * 32
        found = []
        for number in (1, 2):
            try:
                assert management_key(number=number).open(envelope) == secret
                found.append(number)
            except EnvelopeInvalid:
                continue
        assert len(found) == 1
        fresh += found == [2]
    return fresh


def test_every_version_is_wrapped_anew_and_the_old_key_retired(
    full: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "PAGE", 3)
    done = run(full, seen)
    assert (done.wrapped, done.failed, done.finished) == (COUNT, {}, True)
    assert opened_by_one(full) == COUNT
    assert [key.state for key in full.keys] == ["active", "retired"]
    got = acquisitions.get(Prover(full, management_key(number=2)), seen, "record-3")
    assert got.open(management_key(number=2)) == b"\x03" * 32
    assert got.statement.max_uses == 4


def test_what_has_finished_can_be_called_again(full: FakeVault, seen: Seen) -> None:
    run(full, seen)
    asked = len(full.asked)
    done = run(full, seen)
    assert (done.wrapped, done.finished) == (0, True)
    assert [type(each) for each in full.asked[asked:]] == [VaultKeys]


def test_interrupted_at_every_request_it_resumes(
    full: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "PAGE", 2)
    begun = len(full.asked)
    run_fully = FakeVault.control
    interruptions = 0
    for after in range(1, 10_000):
        full.fail_after = after
        try:
            done = run(full, seen)
        except ConnectionError:
            interruptions += 1
            full.fail_after = -1
            opened_by_one(full)
            continue
        assert done.finished
        break
    assert interruptions > COUNT
    assert run_fully is FakeVault.control and len(full.asked) > begun
    assert opened_by_one(full) == COUNT
    assert [len(version.statements) for version in full.versions.values()] == [2] * COUNT


def test_in_the_middle_every_key_opens_with_one_of_the_two(
    full: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    """The new one proves, and either opens; a key that is not wrapped anew is refused without the old one."""
    full.fail_after = 15
    with pytest.raises(ConnectionError):
        run(full, seen)
    full.fail_after = -1
    wrapped = opened_by_one(full)
    assert 0 < wrapped < COUNT
    old, new = management_key(number=1), management_key(number=2)
    other, openers = Seen(tmp_path / "other"), []
    for number in range(COUNT):
        got = acquisitions.get(Prover(full, new), other, f"record-{number}", former=old)
        openers.append(acquisitions.opener(got.statement, new, old))
        assert got.open(openers[-1]) == bytes([number]) * 32
    assert openers.count(new) == wrapped
    for number in range(1, COUNT):
        if openers[number] is old:
            with pytest.raises(ForeignManagementKey, match="--old-management-key"):
                acquisitions.get(Prover(full, new), other, f"record-{number}")


def test_what_another_command_changes_meanwhile_is_listed_and_wrapped_again(
    full: FakeVault, seen: Seen
) -> None:
    """Between the list and its turn a record gets new limits, which this machine has seen."""

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultRekeyList) and answer.items:
            full.alter = None
            Changes(Prover(full, management_key(number=2)), seen).limits(
                "record-2", 1, {"max_uses": 50}, "", NOW
            )
        return answer

    full.alter = alter
    done = run(full, seen)
    assert (done.wrapped, done.failed, done.finished) == (COUNT, {}, True)
    assert opened_by_one(full) == COUNT
    assert full.struct("record-2").head.max_uses == 50


def test_a_key_is_taken_out_while_its_record_is_wrapped_anew(full: FakeVault, seen: Seen) -> None:
    """The answer has the statement from before; meanwhile the replacement finishes, and this machine has seen that."""
    old, new = management_key(number=1), management_key(number=2)

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultGet):
            full.alter = None
            assert run(full, seen).finished
        return answer

    full.alter = alter
    got = acquisitions.get(Prover(full, old), seen, "record-3")
    assert got.open(old) == b"\x03" * 32
    assert acquisitions.get(Prover(full, new), seen, "record-3").open(new) == b"\x03" * 32


def test_no_use_is_counted(full: FakeVault, seen: Seen) -> None:
    run(full, seen)
    assert all((version.requests, version.released) == (0, 0) for version in full.versions.values())


def test_what_fails_is_named_and_the_old_key_stays(full: FakeVault, seen: Seen) -> None:
    version = full.struct("record-2")
    version.envelope = version.envelope[:-1] + bytes([version.envelope[-1] ^ 1])
    done = run(full, seen)
    assert done.wrapped == COUNT - 1 and list(done.failed) == ["record-2/1"]
    assert "not the one that you deposited" in done.failed["record-2/1"]
    assert [key.state for key in full.keys] == ["active", "replaced"]
    Changes(Prover(full, management_key(number=2)), seen).destroy("record-2", 1, "altered", NOW)
    assert run(full, seen).finished


def test_revoked_versions_are_wrapped_too_and_destroyed_ones_are_not(
    full: FakeVault, prover: Prover, seen: Seen
) -> None:
    Changes(prover, seen).revoke("record-1", 1, "", NOW)
    Changes(prover, seen).destroy("record-2", 1, "", NOW)
    assert run(full, seen).wrapped == COUNT - 1
    assert full.struct("record-1").head.standing == "revoked"


def test_a_key_that_does_not_succeed_the_old_one_is_refused(vault: FakeVault, seen: Seen) -> None:
    with pytest.raises((EnvelopeInvalid, ProofInvalid)):
        Replacement(vault, management_key(number=1), management_key(WrappingSuite.P256), seen)


def test_an_old_key_that_is_not_active_is_named(vault: FakeVault, seen: Seen) -> None:
    with pytest.raises(BadRequest, match="the active management key is not number 2 of the old file"):
        Replacement(vault, management_key(number=2), management_key(number=3), seen).run(lambda: NOW)


def test_the_new_key_alone_verifies_what_the_old_one_stated(
    full: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    """A machine that has the new key only, and has seen nothing: the chain of management keys proves old statements."""
    done = run(full, seen)
    assert done.finished
    got = acquisitions.get(Prover(full, management_key(number=2)), Seen(tmp_path / "new"), "record-1")
    assert got.statement.number == 2


def test_a_daemon_that_repeats_itself_ends_the_replacement(
    full: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists the same page again and again, in an order of its own; each version is wrapped once."""
    monkeypatch.setattr(replacement, "PAGE", 3)
    pages = []

    def alter(request: Any, answer: Any) -> Any:
        if not isinstance(request, VaultRekeyList):
            return answer
        pages.append(answer)
        return VaultRekeyPage(list(reversed(pages[0].items)), more=True)

    full.alter = alter
    with pytest.raises(Conflict, match="still wrapped"):
        run(full, seen)
    assert (len(pages), opened_by_one(full)) == (2, 3)


def test_a_new_key_that_does_not_open_replaces_nothing(
    full: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one in a token that answers wrongly: the deposit stays under the old key."""
    new = management_key(number=2)
    right = new.open
    deposits_only = {"vault-deposit": b"something else"}
    monkeypatch.setattr(
        new,
        "open",
        lambda envelope: deposits_only.get(str(envelope.header.about["purpose"])) or right(envelope),
    )
    done = run(full, seen)
    assert (done.wrapped, len(done.failed)) == (0, COUNT)
    assert "does not open what is sealed to it" in done.failed["record-0/1"]
    monkeypatch.undo()
    assert opened_by_one(full) == 0
