"""Statements by the parts of a real front on a real token: the key, its records, its successors, and what clients learn."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from hsmd.client.enrolment import enrol
from hsmd.daemon.front.signing.hold import Reason
from hsmd.daemon.store import AuditHead, Store
from hsmd.errors import AuditFailure, BadRequest, Conflict, Refused
from hsmd.protocol import messages
from hsmd.protocol.enrolment import EnrolmentToken
from hsmd.transparency.declaration import OPERATOR as OPERATOR_SIGNS, operator_verifier
from hsmd.transparency.endorsement import Endorsement, accepted, sign
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Verifier
from hsmd.transparency.statement import Statement, UnknownStatementKey, verify
from tests.support.daemon import AUDITOR, OPERATOR, WEB, Daemon, public_line, run_aside, running_daemon
from tests.support.front_in_process import front_parts

LINES = ["key 00ff", "owner J\u00fcrgen"]
RECEIPT = Statement("deposit-receipt", "test", tuple(LINES))


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """A daemon's directory; tests start it, or use its parts."""
    return Daemon(tmp_path / "daemon")


def stated(daemon: Daemon, kind: str = "deposit-receipt", count: int = 1) -> list[str]:
    """Statements that the front's parts signed."""

    async def work() -> list[str]:
        async with front_parts(daemon) as parts:
            return [await parts.statements.sign_statement(kind, LINES) for _ in range(count)]

    return list(run_aside(work))


def listed(daemon: Daemon, client: str = WEB) -> messages.StatementKeyList:
    found: messages.StatementKeyList = daemon.ask(messages.StatementKeys(), client)
    return found


def note_for(daemon: Daemon, old: str, new: str, client: str = OPERATOR, at: datetime | None = None) -> str:
    private: Any = load_ssh_private_key((daemon.directory / client).read_bytes(), None)
    time = format_time(at or datetime.now(UTC))
    return sign(Endorsement(old, new, time, "the old one was used for a year"), private).render()


def verifiers(lines: list[str]) -> list[Verifier]:
    return [Verifier.from_vkey(line) for line in lines]


def test_the_key_is_made_with_the_first_statement_and_kept(daemon: Daemon) -> None:
    first, second = stated(daemon, count=2)
    (third,) = stated(daemon, "vault-answer")
    with_one_key = set()
    daemon.start()
    try:
        keys = listed(daemon)
        assert [(key.name, key.state) for key in keys.keys] == [("hsmd-statement", "signs")]
        pinned = verifiers(keys.keys[0].verifier_keys)
        assert [key.name for key in pinned] == ["hsmd.statement/test"]
        for note in (first, second):
            assert verify(note, pinned, "deposit-receipt") == RECEIPT
        assert verify(third, pinned).kind == "vault-answer"
        with_one_key = {
            key.name for key in daemon.ask(messages.KeyList()).keys if key.purposes == ["statement"]
        }
    finally:
        daemon.stop()
    assert with_one_key == {"hsmd-statement"}


def test_making_the_key_and_using_it_are_recorded(daemon: Daemon) -> None:
    stated(daemon, count=2)
    begun, done = daemon.audit("control.begun"), daemon.audit("control.done")
    assert [
        (each.get("client", ""), each["fields"]["op"], each["fields"]["target_purposes"]) for each in begun
    ] == [("", "key.generate", "statement")]
    assert done[0]["fields"]["target_name"] == "hsmd-statement"
    attempts = daemon.audit("attempt")
    assert len(attempts) == 2 and len(daemon.audit("outcome")) == 2
    for attempt in attempts:
        text = json.dumps(attempt)
        assert '"statement"' in text and '"hsmd-statement"' in text
        assert attempt.get("client", "") == ""


def test_statements_at_the_same_time_make_one_key(daemon: Daemon) -> None:
    async def work() -> list[str]:
        async with front_parts(daemon) as parts:
            return await asyncio.gather(
                *(parts.statements.sign_statement("vault-answer", [f"number {n}"]) for n in range(8))
            )

    notes = run_aside(work)
    assert len(notes) == 8
    assert len(daemon.audit("control.begun")) == 1


def test_two_daemons_that_make_the_key_at_the_same_time_use_one(daemon: Daemon, tmp_path: Path) -> None:
    """Both share store and token; the one that comes too late destroys its key and signs with the other's."""
    other = Daemon(tmp_path / "other")
    other.store_url, other.token, other.pin_file = daemon.store_url, daemon.token, daemon.pin_file
    other.write()
    other.config.write_text(other.config.read_text().replace('name = "test"', 'name = "second"', 1))

    async def work() -> list[str]:
        async with front_parts(daemon) as one, front_parts(other) as two:
            return await asyncio.gather(
                *(parts.statements.sign_statement("vault-answer", LINES) for parts in (one, two))
            )

    first, second = run_aside(work)
    store = Store(daemon.store_url)
    keys = [key for key in store.load().keys if key.name == "hsmd-statement"]
    store.close()
    assert len(keys) == 1
    for note, name in ((first, "test"), (second, "second")):
        verifier = Verifier.from_spki(f"hsmd.statement/{name}", keys[0].public_key)
        assert verify(note, [verifier]).daemon == name


def test_what_cannot_be_stated_reaches_no_token(daemon: Daemon) -> None:
    async def work() -> None:
        async with front_parts(daemon) as parts:
            for kind, lines in (
                ("checkpoint", LINES),
                ("deposit-receipt", ["two\nlines"]),
                ("deposit-receipt", [""]),
                ("deposit-receipt", ["\u202etxt"]),
            ):
                with pytest.raises(BadRequest):
                    await parts.statements.sign_statement(kind, lines)

    run_aside(work)
    assert daemon.audit("attempt") == [] and daemon.audit("control.begun") == []


def test_nothing_is_stated_while_keys_are_held(daemon: Daemon) -> None:
    async def work() -> None:
        async with front_parts(daemon) as parts:
            await parts.statements.sign_statement("vault-answer", LINES)
            parts.hold.set(Reason.DISK, AuditFailure())
            with pytest.raises(AuditFailure):
                await parts.statements.sign_statement("vault-answer", LINES)
            parts.hold.set(Reason.DISK, None)
            await parts.statements.sign_statement("vault-answer", LINES)

    run_aside(work)
    assert len(daemon.audit("attempt")) == 2


def test_no_client_uses_a_statement_key(daemon: Daemon) -> None:
    stated(daemon)
    daemon.start()
    try:
        digest = {key.name: key.digest for key in daemon.ask(messages.KeyList()).keys}["hsmd-statement"]
        with pytest.raises(BadRequest, match="statement cannot be granted"):
            daemon.ask(messages.GrantAdd(WEB, "hsmd-statement", ["statement"]))

        async def use() -> None:
            async with daemon.connection(WEB) as web:
                for scheme in (0x0807, 0x0403):
                    await web.use_key(
                        bytes.fromhex(digest), 0x83, scheme, RECEIPT.text().encode(), timeout_s=10
                    )

        with pytest.raises(Refused):
            run_aside(use)
    finally:
        daemon.stop()


def test_a_new_key_signs_once_an_operator_has_endorsed_it(daemon: Daemon) -> None:
    (before,) = stated(daemon)
    daemon.start()
    try:
        old = listed(daemon).keys[0]
        daemon.ask(messages.KeyGenerate("statement-2027", "p-256", ["statement"]), timeout_s=30)
        keys = listed(daemon).keys
        assert [(key.name, key.state) for key in keys] == [
            ("hsmd-statement", "signs"),
            ("statement-2027", "waits"),
        ]
        new = keys[1]
    finally:
        daemon.stop()
    (unchanged,) = stated(daemon)
    assert verify(unchanged, verifiers(old.verifier_keys)) == RECEIPT
    with pytest.raises(UnknownStatementKey):
        verify(unchanged, verifiers(new.verifier_keys))

    daemon.start()
    try:
        note = note_for(daemon, old.key, new.key)
        daemon.ask(messages.StatementEndorse(note))
        after = listed(daemon, AUDITOR)
        assert [(key.name, key.state) for key in after.keys] == [
            ("statement-2027", "signs"),
            ("hsmd-statement", "former"),
        ]
        assert after.endorsements == [note]
    finally:
        daemon.stop()
    (later,) = stated(daemon)
    offered = verifiers([line for key in after.keys for line in key.verifier_keys])
    operator = [operator_verifier(public_line(daemon.keys[OPERATOR]))]
    followed = accepted(verifiers(old.verifier_keys), offered, after.endorsements, operator)
    assert verify(later, followed) == verify(before, followed) == RECEIPT
    assert accepted(verifiers(old.verifier_keys), verifiers(new.verifier_keys), [], operator) == []


def test_only_an_operator_endorses_and_only_a_key_of_the_daemon(daemon: Daemon) -> None:
    stated(daemon)
    daemon.start()
    try:
        daemon.ask(messages.KeyGenerate("statement-2027", "ed25519", ["statement"]), timeout_s=30)
        old, new = (key.key for key in listed(daemon).keys)
        good = note_for(daemon, old, new)
        for client in (WEB, AUDITOR):
            with pytest.raises(Refused):
                daemon.ask(messages.StatementEndorse(good), client)
        foreign = Verifier.from_public_key(OPERATOR_SIGNS, _any_key()).vkey.split("+", 2)[2]
        future = datetime.now(UTC) + timedelta(hours=1)
        for note, fault in (
            (note_for(daemon, old, new, AUDITOR), "not signed by an operator"),
            (note_for(daemon, old, foreign), "no statement key of this daemon"),
            (note_for(daemon, old, new, at=future), "dated in the future"),
            (good.replace("year", "week"), "wrong"),
            ("x", "not a signed note"),
        ):
            with pytest.raises(BadRequest, match=fault):
                daemon.ask(messages.StatementEndorse(note))
        assert listed(daemon).endorsements == []
        daemon.ask(messages.StatementEndorse(good))
        with pytest.raises(Conflict, match="sign a new note"):
            daemon.ask(messages.StatementEndorse(good))
        assert listed(daemon).keys[0].key == new
        recorded = [
            each for each in daemon.audit("control.done") if each["fields"]["op"] == "statement.endorse"
        ]
        assert len(recorded) == 1 and "target_note_sha256" in recorded[0]["fields"]
    finally:
        daemon.stop()


def _any_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().public_key()


def test_enrolment_gives_the_keys_of_all_daemons(daemon: Daemon) -> None:
    stated(daemon)
    store = Store(daemon.store_url)
    with store.write() as tx:
        tx.audit_logs.advance_head(AuditHead("hsmd/second", 1, bytes(32), "key"))
    store.close()
    daemon.start()
    try:
        ticket = daemon.ask(messages.ClientEnroll(name="web-9", role="front-end"))
        import asyncssh

        line = public_line(asyncssh.generate_private_key("ssh-ed25519"))
        answer = run_aside(lambda: enrol(EnrolmentToken.parse(ticket.token), line))
        names = [Verifier.from_vkey(key).name for key in answer.statement_keys]
        assert names == ["hsmd.statement/test", "hsmd.statement/second"]
        assert answer.statement_keys == listed(daemon).keys[0].verifier_keys
    finally:
        daemon.stop()


def test_a_daemon_that_stated_nothing_has_no_key(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        assert listed(daemon) == messages.StatementKeyList([], [])
