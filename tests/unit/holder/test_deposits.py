"""Deposits and acquisitions against a vault in memory: round trips of every kind, and every lie of a daemon is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.vault import proofs
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.envelopes.vault.records import Mode, RecordStatement
from hsmd.errors import BadRequest, ProofInvalid, Refused
from hsmd.holder import acquisitions, brought_keys, deposits
from hsmd.holder.acquisitions import EnvelopeAltered
from hsmd.holder.changes import Changes, head, version_of
from hsmd.holder.deposits import KeyToDeposit, PrivateKeyInMemory, SecretInMemory, Terms
from hsmd.holder.own_statements import ForeignManagementKey, StatementRefused
from hsmd.holder.proving import Prover
from hsmd.holder.seen import OlderStatement, Seen
from hsmd.protocol.messages.vault_records import (
    VaultAcquired,
    VaultGet,
    VaultLimits,
    VaultShow,
    VaultStatements,
)
from tests.support.envelopes import rsa_key
from tests.support.fake_vault import FakeVault
from tests.support.holder import NOW, management_key


def in_memory(private: Any) -> PrivateKeyInMemory:
    return PrivateKeyInMemory(brought_keys.of_private_key(private))


KEYS: dict[str, Callable[[], KeyToDeposit]] = {
    "rsa": lambda: in_memory(rsa_key()),
    "p256": lambda: in_memory(ec.generate_private_key(ec.SECP256R1())),
    "p384": lambda: in_memory(ec.generate_private_key(ec.SECP384R1())),
    "p521": lambda: in_memory(ec.generate_private_key(ec.SECP521R1())),
    "ed25519": lambda: in_memory(ed25519.Ed25519PrivateKey.generate()),
    "x25519": lambda: in_memory(x25519.X25519PrivateKey.generate()),
    "secret": lambda: SecretInMemory(bytes(range(32))),
}


def put(prover: Prover, seen: Seen, content: KeyToDeposit, record: str = "www", **terms: Any) -> None:
    deposits.put(prover, seen, content, record, Terms(**terms), NOW)


def content_of(key: KeyToDeposit) -> bytes:
    if isinstance(key, PrivateKeyInMemory):
        return key.brought.pkcs8
    assert isinstance(key, SecretInMemory)
    return key.secret


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_deposited_is_acquired(prover: Prover, seen: Seen, kind: str) -> None:
    key = KEYS[kind]()
    put(prover, seen, key, max_uses=2)
    got = acquisitions.get(prover, seen, "www")
    assert got.open(prover.key) == content_of(key)
    assert (got.requests, got.released, got.uses_left) == (1, 1, 1)


@pytest.mark.parametrize("suite", list(WrappingSuite))
def test_with_a_management_key_of_every_suite(suite: WrappingSuite, seen: Seen) -> None:
    key = management_key(suite)
    vault = FakeVault()
    vault.register(key)
    for prover in (
        Prover(vault, key),
        *([Prover(vault, key, opened=True)] if suite is not WrappingSuite.SYMMETRIC else []),
    ):
        put(prover, seen, KEYS["p256"]())
        assert acquisitions.get(prover, seen, "www").open(key)


def test_the_next_deposit_is_the_next_version(prover: Prover, seen: Seen) -> None:
    first, second = KEYS["p256"](), KEYS["p256"]()
    put(prover, seen, first)
    put(prover, seen, second)
    assert acquisitions.get(prover, seen, "www").statement.version == 2
    assert acquisitions.get(prover, seen, "www", 1).open(prover.key) == content_of(first)


def test_a_management_key_that_does_not_open_is_noticed_before_anything_is_sent(
    prover: Prover, vault: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(prover.key), "open", lambda *_: b"something else")
    with pytest.raises(BadRequest, match="does not open what is sealed to it; nothing was deposited"):
        put(prover, seen, KEYS["p256"]())
    assert vault.versions == {}


# --- a daemon that lies ---


def altered_get(vault: FakeVault, **changes: Any) -> None:
    def alter(request: Any, answer: Any) -> Any:
        if isinstance(answer, VaultAcquired):
            made = {name: value(answer) if callable(value) else value for name, value in changes.items()}
            return msgspec.structs.replace(answer, **made)
        return answer

    vault.alter = alter


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_an_altered_envelope_is_refused_before_it_is_opened(
    prover: Prover, vault: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(prover, seen, KEYS["p256"]())
    altered_get(vault, envelope=lambda answer: flipped(answer.envelope))
    monkeypatch.setattr(type(prover.key), "open", lambda *_: pytest.fail("was opened"))
    with pytest.raises(
        EnvelopeAltered, match=r"not the one that you deposited \(envelope: its SHA-256 is not the one"
    ):
        acquisitions.get(prover, seen, "www")


def test_swapped_envelopes_are_refused(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"](), "www")
    put(prover, seen, KEYS["p256"](), "mail")
    www, mail = vault.struct("www"), vault.struct("mail")
    www.envelope, mail.envelope = mail.envelope, www.envelope
    with pytest.raises(EnvelopeAltered, match="tell the operators"):
        acquisitions.get(prover, seen, "www")


def test_a_whole_deposit_in_the_place_of_another_is_refused(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"](), "www")
    put(prover, seen, KEYS["p256"](), "mail")
    vault.versions["www", 1] = vault.struct("mail")
    with pytest.raises(
        StatementRefused, match="about mail version 1 of anna instead of www version 1 of anna"
    ):
        acquisitions.get(prover, seen, "www")


def test_another_version_than_was_asked_for_is_refused(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"]())
    put(prover, seen, KEYS["p256"]())
    vault.versions["www", 2] = vault.struct("www", 1)
    with pytest.raises(StatementRefused, match="www version 1 of anna instead of www version 2"):
        acquisitions.get(prover, seen, "www", 2)


def test_a_statement_with_other_limits_is_refused(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=1)
    altered_get(vault, text=lambda answer: answer.text.replace(b'"max_uses":1', b'"max_uses":9'))
    with pytest.raises(StatementRefused, match="not signed by your management key: it was altered"):
        acquisitions.get(prover, seen, "www")
    altered_get(vault, text=b"{}")
    with pytest.raises(StatementRefused, match="malformed statement"):
        acquisitions.get(prover, seen, "www")


def test_an_older_statement_is_refused_if_a_newer_one_was_seen(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    Changes(prover, seen).limits("www", 1, {"max_uses": 1}, "", NOW)
    assert acquisitions.get(prover, seen, "www").statement.max_uses == 1
    vault.struct("www").statements.pop()
    with pytest.raises(
        OlderStatement, match="gave statement 1 of www version 1, and this machine has seen number 2"
    ):
        acquisitions.get(prover, seen, "www")


def test_an_older_version_is_not_taken_for_the_newest_one(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    """Its own statements are all there."""
    for _ in range(11):
        put(prover, seen, KEYS["p256"]())
    for version in (10, 11):
        del vault.versions["www", version]
    with pytest.raises(
        OlderStatement, match="version 9 of www as the newest one, and this machine has seen version 11"
    ):
        acquisitions.get(prover, seen, "www")
    assert acquisitions.get(prover, seen, "www", 9).statement.version == 9


def test_statements_that_another_machine_signed_must_continue_those_that_were_seen(
    prover: Prover, vault: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    other = Seen(tmp_path / "other")
    for uses in (8, 7, 6):
        Changes(prover, other).limits("www", 1, {"max_uses": uses}, "", NOW)
    assert acquisitions.get(prover, seen, "www").statement.number == 4
    # The same numbers, from a daemon that shows another history than before.
    vault.struct("www").statements[1:] = []
    second = Seen(tmp_path / "second")
    for uses in (5, 4, 3, 2):
        Changes(prover, second).limits("www", 1, {"max_uses": uses}, "", NOW)
    with pytest.raises(
        StatementRefused, match="statement 5 of www version 1 does not continue what this machine has seen"
    ):
        acquisitions.get(prover, seen, "www")


@pytest.mark.parametrize("version", [0, 1])
def test_a_statement_that_another_command_has_replaced_meanwhile_is_taken(
    prover: Prover, vault: FakeVault, seen: Seen, version: int
) -> None:
    """The use is counted; what was the newest statement when the daemon answered must not be refused for its age."""
    put(prover, seen, KEYS["p256"](), max_uses=9)

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultGet):
            vault.alter = None
            for uses in (8, 7):
                Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
        return answer

    vault.alter = alter
    assert acquisitions.get(prover, seen, "www", version).statement.number == 1
    newest = seen.before("anna", "www").newest
    assert newest is not None and newest.number == 3, "what was seen does not go back"
    vault.struct("www").statements.pop()
    with pytest.raises(OlderStatement):
        acquisitions.get(prover, seen, "www", version)


def test_a_deposit_of_another_command_meanwhile_is_not_taken_for_a_store_that_was_set_back(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"]())

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultGet):
            vault.alter = None
            put(prover, seen, KEYS["p256"]())
        return answer

    vault.alter = alter
    assert acquisitions.get(prover, seen, "www").statement.version == 1
    assert acquisitions.get(prover, seen, "www").statement.version == 2


def test_what_another_command_has_seen_meanwhile_must_continue_the_statement(
    prover: Prover, vault: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    """A daemon that shows two histories to two commands at the same time."""
    put(prover, seen, KEYS["p256"](), max_uses=9)
    Changes(prover, Seen(tmp_path / "one")).limits("www", 1, {"max_uses": 8}, "", NOW)
    given = list(vault.struct("www").statements)

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultGet):
            vault.alter = None
            vault.struct("www").statements[1:] = []
            for uses in (5, 4):
                Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
        return answer

    vault.alter = alter
    with pytest.raises(StatementRefused, match="does not continue what this machine has seen"):
        acquisitions.get(prover, seen, "www")
    assert len(given) == 2


def test_a_statement_that_is_overtaken_while_it_is_learnt_is_taken(
    prover: Prover, vault: FakeVault, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    check = acquisitions.checked_envelope

    def overtaken(*arguments: Any) -> Any:
        Changes(prover, seen).limits("www", 1, {"max_uses": 8}, "", NOW)
        return check(*arguments)

    monkeypatch.setattr(acquisitions, "checked_envelope", overtaken)
    assert acquisitions.get(prover, seen, "www").statement.max_uses == 9
    newest = seen.before("anna", "www").newest
    assert newest is not None and newest.number == 2


def test_a_change_that_another_command_has_overtaken_is_signed_anew(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    overtaking = [8, 7]

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultStatements) and overtaking:
            uses = overtaking.pop()
            alter_again, vault.alter = vault.alter, None
            Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
            vault.alter = alter_again
        return answer

    vault.alter = alter
    changed = Changes(prover, seen).limits("www", 1, {"mode": Mode.DENY}, "", NOW)
    assert (changed.number, changed.max_uses, changed.mode) == (4, 8, "deny")
    assert vault.struct("www").head == changed


def test_an_older_version_that_is_shown_as_the_newest_one_is_not_changed(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    """What was seen of the version that is shown counts, not only what was seen of the newest one."""
    put(prover, seen, KEYS["p256"](), max_uses=9)
    for uses in (5, 1):
        Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
    put(prover, seen, KEYS["p256"]())
    withheld = vault.versions.pop(("www", 2))
    with pytest.raises(OlderStatement, match="version 1 of www as the newest one"):
        Changes(prover, seen).limits("www", 0, {"mode": Mode.DENY}, "", NOW)

    def alter(request: Any, answer: Any) -> Any:
        """Shows version 1 with its first statement, and all of its history when asked what follows from that."""
        if isinstance(request, VaultShow):
            return msgspec.structs.replace(answer, versions=[older])
        if isinstance(request, VaultStatements) and request.after == 0:
            return msgspec.structs.replace(answer, statements=answer.statements[:1])
        return answer

    older = msgspec.structs.replace(vault.shown(vault.struct("www")), number=1)
    for shown, asked in ((withheld, 0), (None, 0), (None, 1)):
        vault.alter = alter
        if shown is not None:
            vault.versions["www", 2] = shown
        else:
            vault.versions.pop(("www", 2), None)
        with pytest.raises(OlderStatement):
            Changes(prover, seen).limits("www", asked, {"mode": Mode.DENY}, "", NOW)
    assert vault.struct("www").head.number == 3


def test_another_record_than_was_asked_for_is_not_changed(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    """Both are the owner's, so the statement about it is good: only the name tells."""
    put(prover, seen, KEYS["p256"](), "bank", max_uses=1)
    put(prover, seen, KEYS["p256"](), "test")

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultShow):
            return msgspec.structs.replace(answer, versions=[vault.shown(vault.struct("bank"))])
        return answer

    vault.alter = alter
    changes = Changes(prover, seen)
    for version in (0, 1):
        for change in (
            lambda version=version: changes.limits("test", version, {"max_uses": 1000}, "", NOW),
            lambda version=version: changes.limits(
                "test", version, {"max_uses": 1000}, "", NOW, restored=True
            ),
            lambda version=version: changes.revoke("test", version, "", NOW),
            lambda version=version: changes.destroy("test", version, "", NOW),
        ):
            with pytest.raises(StatementRefused, match="showed bank instead of test"):
                change()
    assert [vault.struct(record).head.number for record in ("bank", "test")] == [1, 1]


def test_a_change_does_not_follow_a_statement_that_another_command_has_replaced(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    """A daemon that takes both would have two statements with one number, the second with the limits before the first."""
    put(prover, seen, KEYS["p256"](), max_uses=9)

    def alter(request: Any, answer: Any) -> Any:
        """Keeps its answer back until another command has taken uses away, and gives what was the newest one then."""
        if isinstance(request, VaultStatements) and request.after == 0:
            vault.alter = None
            if vault.struct("www").head.number == 1:
                Changes(prover, seen).limits("www", 1, {"max_uses": 1}, "", NOW)
            vault.alter = alter
        return answer

    vault.alter = alter
    sent = len(vault.asked)
    changed = Changes(prover, seen).limits("www", 1, {"mode": Mode.DENY}, "", NOW)
    made = [each for each in vault.asked[sent:] if isinstance(each, VaultLimits)]
    assert (changed.number, changed.max_uses) == (3, 1)
    assert [RecordStatement.decode(each.text).number for each in made] == [2, 3]


def test_statements_that_are_left_out_are_noticed(
    prover: Prover, vault: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    for uses in (8, 7):
        Changes(prover, Seen(tmp_path / "other")).limits("www", 1, {"max_uses": uses}, "", NOW)

    def alter(request: Any, answer: Any) -> Any:
        return (
            msgspec.structs.replace(answer, statements=answer.statements[1:])
            if isinstance(request, VaultStatements)
            else answer
        )

    vault.alter = alter
    with pytest.raises(StatementRefused, match="withholds or has replaced"):
        acquisitions.get(prover, seen, "www")


def test_an_envelope_that_holds_another_secret_is_refused(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    """The owner's own tool once sealed another key than it stated: the check value shows it."""
    content = SecretInMemory(bytes(range(32)))
    wrong = dataclasses.replace(content, secret=bytes(32))

    class Mixed(SecretInMemory):
        @property
        def identity(self) -> str:
            return wrong.identity

    put(prover, seen, Mixed(bytes(range(32))))
    with pytest.raises(EnvelopeAltered, match="another key than you stated"):
        acquisitions.get(prover, seen, "www").open(prover.key)


def test_a_foreign_management_key_is_named(
    vault: FakeVault, prover: Prover, seen: Seen, tmp_path: Path
) -> None:
    put(prover, seen, KEYS["p256"]())
    stranger = management_key(WrappingSuite.P256)
    vault.keys[0] = vault._info(stranger.statement, "active", stranger.signed.signature)
    with pytest.raises(
        ForeignManagementKey,
        match=r"deposited with another management key .* use the file or backup of that key",
    ):
        acquisitions.get(Prover(vault, stranger), Seen(tmp_path / "new"), "www")


# --- proofs ---


def test_a_proof_is_for_one_connection_one_request_and_one_time(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"]())
    acquisitions.get(prover, seen, "www")
    replayed = vault.asked[-1]
    assert isinstance(replayed, VaultGet)
    with pytest.raises(Refused):
        vault.control(replayed)
    with pytest.raises(ProofInvalid):
        prover_of_another_binding(vault, prover).ask(VaultGet("www"), "www", 0)


def prover_of_another_binding(vault: FakeVault, prover: Prover) -> Prover:
    class Elsewhere:
        channel_binding = b"mine"

        def control(self, request: Any, *, timeout_s: float = 15.0) -> Any:
            return vault.control(request)

    return Prover(Elsewhere(), prover.key)


def test_a_deposit_is_never_opened_as_a_challenge(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    """A daemon that sends a stored envelope as a challenge would learn an HMAC with the deposited key."""
    put(prover, seen, SecretInMemory(bytes(range(32))))
    stored = vault.struct("www").envelope

    def alter(request: Any, answer: Any) -> Any:
        return msgspec.structs.replace(answer, opened=stored) if hasattr(answer, "opened") else answer

    vault.alter = alter
    with pytest.raises(Exception, match="it is not for vault-challenge"):
        Prover(vault, prover.key, opened=True).ask(VaultGet("www"), "www", 0)


def test_a_challenge_is_never_taken_for_a_deposit(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, SecretInMemory(bytes(range(32))))
    challenge = proofs.seal_challenge(bytes(32), bytes(32), prover.key.recipient, prover.key.suite)
    vault.struct("www").envelope = challenge
    with pytest.raises(EnvelopeAltered):
        acquisitions.get(prover, seen, "www")
    assert Envelope.decode(challenge).header.about["purpose"] == "vault-challenge"


# --- changes ---


def test_limits_keep_what_is_not_given(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9, mode=Mode.DENY, not_after=NOW + timedelta(90))
    changed = Changes(prover, seen).limits("www", 0, {"max_uses": 3}, "fewer", NOW + timedelta(1))
    assert (changed.max_uses, changed.mode, changed.not_after, changed.reason) == (
        3,
        "deny",
        "2030-04-02T03:04:05Z",
        "fewer",
    )
    assert vault.struct("www").head == changed


def test_a_statement_is_never_dated_before_the_one_it_follows(prover: Prover, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"]())
    changed = Changes(prover, seen).limits("www", 1, {"max_uses": 3}, "", NOW - timedelta(hours=1))
    assert changed.stated_at == "2030-01-02T03:04:05Z"


def test_a_revoked_version_may_become_compromised_and_is_destroyed(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"]())
    changes = Changes(prover, seen)
    assert changes.revoke("www", 1, "left the team", NOW).standing == "revoked"
    assert (
        changes.revoke("www", 1, "seen elsewhere", NOW, NOW - timedelta(3)).compromised_at
        == "2029-12-30T03:04:05Z"
    )
    destroyed = changes.destroy("www", 1, "", NOW)
    assert (destroyed.standing, destroyed.envelope) == ("destroyed", "")
    assert vault.struct("www").envelope == b""


def test_a_change_is_signed_only_over_a_verified_statement(
    prover: Prover, vault: FakeVault, seen: Seen
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=1)
    text, signature = vault.struct("www").statements[0]
    vault.struct("www").statements[0] = (text.replace(b'"max_uses":1', b'"max_uses":9'), signature)
    with pytest.raises(StatementRefused):
        Changes(prover, seen).limits("www", 1, {"reason": "x"}, "", NOW)
    assert len(vault.struct("www").statements) == 1


def test_a_lost_management_keys_deposit_can_be_destroyed_with_the_next_one(
    vault: FakeVault, prover: Prover, seen: Seen
) -> None:
    from hsmd.holder.management_keys import Place, state
    from tests.support.holder import pair

    put(prover, seen, KEYS["p256"]())
    restarted = state(pair(WrappingSuite.P256), Place("anna", 2), NOW)
    vault.keys[0].state = "lost"
    vault.register(restarted)
    again = Prover(vault, restarted)
    with pytest.raises(ForeignManagementKey):
        Changes(again, seen).limits("www", 1, {"max_uses": 3}, "", NOW)
    assert Changes(again, seen).destroy("www", 1, "the key was lost", NOW).standing == "destroyed"


def test_the_head_is_asked_for_by_its_number(prover: Prover, vault: FakeVault, seen: Seen) -> None:
    put(prover, seen, KEYS["p256"]())
    for uses in range(1, 5):
        Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
    vault.asked.clear()
    assert head(prover, seen, version_of(prover, "www"), seen.before("anna", "www")).number == 5
    assert len(vault.asked) == 2


# --- a store that was restored from a backup ---


def test_after_a_restore_the_owner_states_the_limits_anew_and_other_machines_accept_it(
    prover: Prover, vault: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    other = Seen(tmp_path / "other")
    for uses in (5, 3):
        Changes(prover, seen).limits("www", 1, {"max_uses": uses}, "", NOW)
    acquisitions.get(prover, other, "www")
    version = vault.struct("www")
    version.statements[1:] = []
    version.held = True
    with pytest.raises(OlderStatement, match="after a restore: hsmd vault limits --restored"):
        Changes(prover, seen).limits("www", 1, {"max_uses": 3}, "", NOW)
    stated = Changes(prover, seen).limits("www", 1, {"max_uses": 3}, "", NOW, restored=True)
    assert (stated.number, stated.max_uses, stated.reason) == (4, 3, "restored")
    version.held = False
    for machine in (seen, other):
        assert acquisitions.get(prover, machine, "www").statement.number == 4


def test_a_gap_is_accepted_only_where_the_owner_has_signed_it(
    prover: Prover, vault: FakeVault, seen: Seen, tmp_path: Path
) -> None:
    put(prover, seen, KEYS["p256"](), max_uses=9)
    other = Seen(tmp_path / "other")
    Changes(prover, other).limits("www", 1, {"max_uses": 5}, "", NOW)
    Changes(prover, other).limits("www", 1, {"max_uses": 4}, "restored: not really", NOW)
    del vault.struct("www").statements[1]
    acquisitions.get(prover, seen, "www")
    Changes(prover, other).limits("www", 1, {"max_uses": 3}, "", NOW)
    Changes(prover, other).limits("www", 1, {"max_uses": 2}, "", NOW)
    del vault.struct("www").statements[2]
    with pytest.raises(StatementRefused, match="does not continue"):
        acquisitions.get(prover, seen, "www")
