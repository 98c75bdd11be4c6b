"""A15: proofs that are replayed, moved or stolen, and a database that is written behind the daemon's back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.client import Connection
from hsmd.envelopes import sealing
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault import proofs, signing
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.answers import Verdict
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.records import RecordStatement, check_envelope
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, HsmdError, NotFound, Refused, StoreFailure
from hsmd.protocol import messages
from hsmd.transparency.note import Verifier, signed
from hsmd.transparency.statement import Statement, signer_of
from tests.support.daemon import OPERATOR, Daemon, running_daemon
from tests.support.vault import DENY, Owner, add_client, check, confirm, confirmed_owner, new_key, spki_of

Owned = tuple[Owner, Connection]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("vault") / "daemon") as built:
        yield built


@pytest.fixture
async def owned(daemon: Daemon) -> AsyncIterator[Owned]:
    """A new owner with a confirmed management key, and a record `www`."""
    async with confirmed_owner(daemon, f"owner-{os.urandom(4).hex()}") as (owner, connection):
        await owner.put(connection, "www", max_uses=5, mode=DENY)
        yield owner, connection


def rules(daemon: Daemon, owner: str) -> list[tuple[str, str]]:
    """The operation and the rule of each refusal of a proof, from the audit log."""
    mine = [each["fields"] for each in daemon.audit("vault.refused") if each["client"] == owner]
    return [(each["op"], each["rule"]) for each in mine]


async def refusal(connection: Connection, request: Any) -> str:
    """The text of the refusal of a request."""
    with pytest.raises(Refused) as caught:
        await connection.control(request, timeout_s=5)
    return str(caught.value)


# --- proofs ---


async def test_a_proof_counts_once(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    request = await owner.proven(connection, messages.VaultGet("www"), "www")
    await connection.control(request, timeout_s=5)
    assert await refusal(connection, request) == "refused"
    assert rules(daemon, owner.name) == [("vault.get", "unknown-challenge")]


async def test_a_proof_counts_on_its_connection_only(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    request = await owner.proven(connection, messages.VaultGet("www"), "www")
    async with daemon.connection(owner.name) as other:
        assert await refusal(other, request) == "refused"
        # The thief has a challenge of its own, and what the owner has signed for another connection.
        challenged = await owner.challenge(other, "vault.get", "www")
        plain = messages.VaultGet("www")
        mine = proofs.sign_proof(owner.signing, owner.context(connection, challenged, plain, "www"))
        request = messages.VaultGet(
            "www", proof=messages.VaultProof(challenged.nonce, mine.kind.value, mine.value)
        )
        assert await refusal(other, request) == "refused"
    assert rules(daemon, owner.name) == [("vault.get", "other-connection"), ("vault.get", "wrong-proof")]


async def test_a_proof_counts_for_its_request_only(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    await owner.put(connection, "mail")
    for verb, record, version in (
        ("vault.resume", "www", 1),
        ("vault.get", "mail", 0),
        ("vault.get", "www", 1),
    ):
        challenged = await owner.challenge(connection, verb, record, version)
        context = owner.context(connection, challenged, messages.VaultGet("www"), "www")
        made = proofs.sign_proof(owner.signing, context)
        proof = messages.VaultProof(challenged.nonce, made.kind.value, made.value)
        assert await refusal(connection, messages.VaultGet("www", proof=proof)) == "refused"
    request = await owner.proven(connection, messages.VaultAllow("web-1"))
    assert await refusal(connection, msgspec.structs.replace(request, client="mail-1")) == "refused"
    assert await refusal(connection, messages.VaultGet("www")) == "refused"
    assert rules(daemon, owner.name) == [
        ("vault.get", "other-verb"), ("vault.get", "other-record"), ("vault.get", "other-record"),
        ("vault.allow", "wrong-proof"), ("vault.get", "no-proof"),
    ]  # fmt: skip


async def test_a_proof_counts_for_its_owner_only(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    async with confirmed_owner(daemon, f"{owner.name}-2") as (thief, other):
        await thief.put(other, "www")
        request = await owner.proven(connection, messages.VaultGet("www"), "www")
        assert await refusal(other, request) == "refused"
        thief.signing, mine = owner.signing, thief.signing
        assert await refusal(other, await thief.proven(other, messages.VaultGet("www"), "www")) == "refused"
        thief.signing = mine
        assert rules(daemon, thief.name) == [("vault.get", "other-owner"), ("vault.get", "wrong-proof")]
        await thief.get(other, "www")


async def test_a_login_without_the_management_key_deposits_and_takes_nothing(
    owned: Owned, daemon: Daemon
) -> None:
    """A stolen login can suspend, which stops harm, and read lists."""
    owner, connection = owned
    thief = Owner(owner.name)
    planted = thief.deposit("www", 2)
    for request in (
        await thief.put_request(connection, planted),
        await thief.proven(connection, messages.VaultGet("www"), "www"),
        await thief.proven(connection, messages.VaultAllow("web-1")),
        await thief.proven(connection, messages.VaultRekeyFinish()),
    ):
        assert await refusal(connection, request) == "refused"
    with pytest.raises((BadRequest, Refused, Conflict)):
        await owner.replace_with(connection, thief)
    assert (await check(connection, owner.name, planted.spki)).verdict is Verdict.MISMATCH
    await connection.control(messages.VaultSuspend("www", 1), timeout_s=5)
    with pytest.raises(Refused):
        await thief.ask(connection, messages.VaultResume("www", 1), "www", 1)
    registered = await Owner(owner.name, number=2).register(connection)
    assert registered.state == "pending", "an operator would have to confirm another fingerprint"
    await owner.ask(connection, messages.VaultResume("www", 1), "www", 1)
    assert set(rules(daemon, owner.name)) >= {("vault.put", "wrong-proof"), ("vault.get", "wrong-proof")}


async def test_an_old_statement_is_not_stated_again(owned: Owned) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "mail", max_uses=9)
    older = deposit.statement
    await owner.limit(connection, deposit, max_uses=3)
    await owner.limit(connection, deposit, max_uses=2)
    for statement in (older, deposit.statement):
        replayed = messages.VaultLimits(*owner.signed(statement))
        with pytest.raises((Conflict, BadRequest)):
            await owner.ask(connection, replayed, "mail", 1)
    versions: messages.VaultVersions = await connection.control(messages.VaultShow("mail"), timeout_s=5)
    assert versions.versions[0].max_uses == 2


async def test_the_public_key_of_another_is_not_deposited_as_a_symmetric_key(owned: Owned) -> None:
    """A symmetric key needs no proof of possession, and what stands for it in its statement is a digest as well."""
    owner, connection = owned
    anothers = spki_of(new_key())
    deposit = owner.deposit("mine")
    envelope = sealing.seal_secret_key(
        os.urandom(32),
        owner.wrapping.public_key(),
        owner.envelope_suite,
        deposit_about(owner.name, "mine", 1),
    ).encode()
    statement = replace(
        deposit.statement,
        kind=Kind.SECRET_KEY,
        key=sha256(anothers).hexdigest(),
        envelope=sha256(envelope).hexdigest(),
    )
    await owner.ask(connection, messages.VaultPut(*owner.signed(statement), envelope), "mine", 1)
    for record in ("", "mine"):
        answer = await check(connection, owner.name, anothers, record)
        assert (answer.verdict, answer.usable) == (Verdict.MISMATCH, False)


# --- the database, written by someone who cannot sign ---


def write_to_store(daemon: Daemon, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Change rows as an attacker with access to the database would."""
    path = daemon.store_url.removeprefix("sqlite:///")
    with sqlite3.connect(path, timeout=10) as database:
        for statement, values in statements:
            assert database.execute(statement, values).rowcount > 0, statement
    database.close()


def altered(daemon: Daemon, owner: str) -> list[str]:
    """What the audit log says about rows that are not as signed."""
    return [
        each["fields"]["error"] for each in daemon.audit("vault.altered") if each["fields"]["owner"] == owner
    ]


OF_VERSION = (
    "(select v.id from vault_versions v join vault_records r on r.id = v.record_id "
    "join vault_owners o on o.owner_id = v.owner_id where o.name = ? and r.name = ?)"
)

REPLACE_KEY = (
    "update vault_management_keys set digest = ?, text = ?, signature = ?, confirmation = ? "
    "where owner_id = (select owner_id from vault_owners where name = ?)"
)
RENAME_OWNER = "update vault_owners set name = ? where client_id = (select id from clients where name = ?)"
PLANT = (
    "update vault_versions set head = ?, key_digest = ?, spki = ?, max_uses = 0, mode = 'notify' "
    f"where id = {OF_VERSION}"
)


async def test_swapped_blobs_are_found_by_the_owner(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    other = await owner.put(connection, "mail")
    write_to_store(
        daemon,
        (
            f"update vault_envelopes set envelope = ? where version_id = {OF_VERSION}",
            (other.envelope, owner.name, "www"),
        ),
    )
    acquired = await owner.get(connection, "www")
    assert acquired.envelope == other.envelope
    stated = signing.SigningPublicKey.from_spki(spki_of(owner.signing))
    stated.verify(signing.Kind.RECORD, acquired.text, acquired.signature)
    with pytest.raises(EnvelopeInvalid, match="SHA-256"):
        check_envelope(RecordStatement.decode(acquired.text), acquired.envelope, owner.statement)


@pytest.mark.parametrize(
    ("change", "member"),
    [("max_uses = 500", "max_uses"), ("mode = 'notify'", "mode"), ("not_after = null", "not_after")],
)
async def test_limits_that_were_raised_in_the_database_count_for_nothing(
    owned: Owned, daemon: Daemon, change: str, member: str
) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "mail", max_uses=1, mode=DENY, not_after="2199-01-01T00:00:00Z")
    await owner.get(connection, "mail")
    write_to_store(
        daemon, (f"update vault_versions set {change} where id = {OF_VERSION}", (owner.name, "mail"))
    )
    with pytest.raises(HsmdError, match=f"the store was changed .*{member}") as caught:
        await owner.get(connection, "mail")
    assert isinstance(caught.value, StoreFailure)
    assert (await check(connection, owner.name, deposit.spki)).verdict is Verdict.MISMATCH
    assert member in altered(daemon, owner.name)[0]
    versions: messages.VaultVersions = await connection.control(messages.VaultShow("mail"), timeout_s=5)
    assert (versions.versions[0].requests, versions.versions[0].released) == (1, 1)


async def test_a_planted_version_matches_nothing(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    planted = new_key()
    spki = spki_of(planted)
    write_to_store(
        daemon,
        (
            f"update vault_versions set key_digest = ?, spki = ? where id = {OF_VERSION}",
            (sha256(spki).digest(), spki, owner.name, "www"),
        ),
    )
    assert (await check(connection, owner.name, spki)).verdict is Verdict.MISMATCH
    thief = Owner(owner.name)
    statement = thief.deposit("www", key=planted).statement
    text, signature = thief.signed(statement)
    write_to_store(
        daemon,
        (
            f"update vault_versions set head = ?, max_uses = 0, mode = 'notify' where id = {OF_VERSION}",
            (sha256(text).digest(), owner.name, "www"),
        ),
        (
            f"update vault_statements set text = ?, signature = ? where version_id = {OF_VERSION}",
            (text, signature, owner.name, "www"),
        ),
    )
    assert (await check(connection, owner.name, spki)).verdict is Verdict.MISMATCH
    assert len(altered(daemon, owner.name)) == 2


async def test_a_planted_management_key_answers_and_proves_nothing(owned: Owned, daemon: Daemon) -> None:
    """Its row says that an operator confirmed it; the note is another owner's, or by a key that the token does not have."""
    owner, connection = owned
    listed: messages.ManagementKeyList = await connection.control(messages.VaultKeys(), timeout_s=5)
    thief = Owner(owner.name)
    planted = new_key()
    text = thief.statement.encode()
    said = Confirmation(owner.name, thief.statement.digest.hex(), 1, OPERATOR, format_time(datetime.now(UTC)))
    forged_by = new_key()
    verifier = Verifier.from_spki(signer_of("test"), spki_of(forged_by))
    forged = _note(Statement("vault-confirmation", "test", said.lines()).text(), verifier, forged_by)
    deposit = thief.deposit("www", key=planted)
    statement, signature = thief.signed(deposit.statement)
    for note in (listed.keys[0].confirmation, forged, ""):
        write_to_store(
            daemon,
            (
                REPLACE_KEY,
                (
                    thief.statement.digest, text, thief.sign(signing.Kind.MANAGEMENT_KEY, text), note,
                    owner.name,
                ),
            ),
            (
                PLANT,
                (sha256(statement).digest(), sha256(spki_of(planted)).digest(), spki_of(planted), owner.name, "www"),
            ),
            (
                f"update vault_statements set text = ?, signature = ?, signer = ? where version_id = {OF_VERSION}",
                (statement, signature, thief.statement.digest, owner.name, "www"),
            ),
        )  # fmt: skip
        assert (await check(connection, owner.name, spki_of(planted))).verdict is Verdict.NO_ANSWER
        with pytest.raises(StoreFailure, match="nothing proves that it is the owner's"):
            await thief.get(connection, "www")


async def test_rows_of_one_owner_count_for_no_other(owned: Owned, daemon: Daemon) -> None:
    """What another owner has stated and deposited is genuine, and still not the victim's, whatever the rows are called."""
    victim, connection = owned
    async with confirmed_owner(daemon, f"{victim.name}-2") as (thief, other):
        stolen = await thief.put(other, "www", max_uses=5, mode=DENY)
        listed: messages.ManagementKeyList = await other.control(messages.VaultKeys(), timeout_s=5)
        text, signature = thief.signed(stolen.statement)
        key = listed.keys[0]
        write_to_store(
            daemon,
            (
                REPLACE_KEY,
                (thief.statement.digest, key.text, key.signature, key.confirmation, victim.name),
            ),
            (
                f"update vault_statements set text = ?, signature = ?, signer = ? where version_id = {OF_VERSION}",
                (text, signature, thief.statement.digest, victim.name, "www"),
            ),
            (
                f"update vault_versions set head = ?, key_digest = ?, spki = ? where id = {OF_VERSION}",
                (sha256(text).digest(), sha256(stolen.spki).digest(), stolen.spki, victim.name, "www"),
            ),
            (RENAME_OWNER, (thief.name, victim.name)),
        )
        try:
            assert (await check(connection, victim.name, stolen.spki)).verdict is Verdict.NO_ANSWER
            assert altered(daemon, victim.name)
            for prover in (victim, thief):
                with pytest.raises(StoreFailure, match="nothing proves that it is the owner's"):
                    await prover.get(connection, "www")
            assert (await check(other, thief.name, stolen.spki)).verdict is Verdict.MATCH
        finally:
            write_to_store(
                daemon,
                (
                    RENAME_OWNER,
                    (victim.name, victim.name),
                ),
            )


async def test_an_operator_confirms_what_was_compared_and_not_what_the_row_names(daemon: Daemon) -> None:
    """The daemon's note would be genuine, and about a management key that the operator has never seen."""
    name = f"owner-{os.urandom(4).hex()}"
    add_client(daemon, name, "owner")
    owner, thief = Owner(name), Owner(name)
    async with daemon.connection(name) as connection:
        registered = await owner.register(connection)
        pending = "where owner_id = (select owner_id from vault_owners where name = ?)"
        for change, value in (("digest = ?", thief.statement.digest), ("number = ?", 2)):
            write_to_store(daemon, (f"update vault_management_keys set {change} {pending}", (value, name)))
            with pytest.raises(StoreFailure, match="its row is not about its statement"):
                await confirm(daemon, name, registered.fingerprint)
            honest = (owner.statement.digest, 1, name)
            write_to_store(
                daemon, (f"update vault_management_keys set digest = ?, number = ? {pending}", honest)
            )
        listed: messages.ManagementKeyList = await connection.control(messages.VaultKeys(), timeout_s=5)
        assert (listed.keys[0].state, listed.keys[0].confirmation) == ("pending", "")
        await confirm(daemon, name, registered.fingerprint)
        await owner.put(connection, "www")
        # The same after a restore, when the active one is confirmed again.
        write_to_store(daemon, (f"update vault_management_keys set held = 1 {pending}", (name,)))
        for change, value in (("digest = ?", thief.statement.digest), ("number = ?", 2)):
            write_to_store(daemon, (f"update vault_management_keys set {change} {pending}", (value, name)))
            with pytest.raises(StoreFailure, match="its row is not about its statement"):
                await confirm(daemon, name, registered.fingerprint)
            write_to_store(
                daemon, (f"update vault_management_keys set digest = ?, number = ? {pending}", honest)
            )
        await confirm(daemon, name, registered.fingerprint)
        await owner.get(connection, "www")


async def test_a_management_key_that_was_stolen_and_replaced_does_not_come_back_with_a_restore(
    daemon: Daemon,
) -> None:
    """The backup is from before the replacement: it has the stolen key as the active one, and deposits sealed to it."""
    async with confirmed_owner(daemon, f"owner-{os.urandom(4).hex()}") as (stolen, connection):
        deposit = await stolen.put(connection, "www")
        mine = "where owner_id = (select owner_id from vault_owners where name = ?)"
        for table in ("vault_management_keys", "vault_versions"):
            write_to_store(daemon, (f"update {table} set held = 1 {mine}", (stolen.name,)))
        for attempt in (
            stolen.limit(connection, deposit),
            stolen.get(connection, "www"),
            stolen.replace_with(connection, stolen.successor()),
        ):
            with pytest.raises(Refused):
                await attempt
        owner = stolen.successor()  # what the owner had replaced it with
        registered = await owner.register(connection)
        assert registered.state == "pending"
        await confirm(daemon, owner.name, registered.fingerprint)
        with pytest.raises(Refused):
            await stolen.get(connection, "www")
        with pytest.raises(NotFound):
            await confirm(daemon, owner.name, stolen.statement.fingerprint)
        await owner.put(connection, "www", 2)
        assert owner.open(await owner.get(connection, "www"))


def _note(text: str, verifier: Verifier, key: Any) -> str:
    return signed(text, verifier, [key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))]).render()
