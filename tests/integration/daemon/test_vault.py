"""The vault of a real daemon: the life of a record, management keys, acquisitions, checks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from sqlalchemy import update

from hsmd.client import Connection
from hsmd.daemon.store import Store
from hsmd.daemon.store.tables import vault_management_keys, vault_versions
from hsmd.envelopes.vault import proofs
from hsmd.envelopes.vault.answers import Answer, Verdict
from hsmd.envelopes.vault.life_cycle import Reason, State
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound, Overloaded, Refused
from hsmd.protocol import messages
from hsmd.transparency import statement
from hsmd.transparency.note import Verifier
from tests.support.daemon import AUDITOR, OPERATOR, WEB, Daemon, running_daemon
from tests.support.vault import (
    DENY,
    NONCE,
    Owner,
    add_client,
    check,
    confirm,
    confirmed_owner,
    in_future,
    new_key,
    pkcs8_of,
    spki_of,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("vault") / "daemon") as built:
        yield built


@pytest.fixture
async def owned(daemon: Daemon) -> AsyncIterator[tuple[Owner, Connection]]:
    """A new owner with a confirmed management key."""
    async with confirmed_owner(daemon, f"owner-{os.urandom(4).hex()}") as found:
        yield found


Owned = tuple[Owner, Connection]


async def shown(connection: Connection, record: str) -> list[messages.VaultVersion]:
    answer: messages.VaultVersions = await connection.control(messages.VaultShow(record), timeout_s=10)
    return answer.versions


# --- management keys ---


async def test_a_management_key_counts_once_an_operator_has_confirmed_its_fingerprint(daemon: Daemon) -> None:
    name = f"owner-{os.urandom(4).hex()}"
    add_client(daemon, name, "owner")
    owner = Owner(name)
    async with daemon.connection(name) as connection:
        with pytest.raises(Refused):
            await owner.put(connection, "site")
        registered = await owner.register(connection)
        assert registered.state == "pending"
        assert registered.fingerprint == owner.statement.fingerprint
        with pytest.raises(Refused):
            await owner.put(connection, "site")
        with pytest.raises(BadRequest, match="another fingerprint"):
            await confirm(daemon, name, Owner(name).statement.fingerprint)
        await confirm(daemon, name, registered.fingerprint)
        await owner.put(connection, "site")
        listed: messages.ManagementKeyList = await connection.control(messages.VaultKeys(), timeout_s=5)
    (key,) = listed.keys
    assert (key.state, key.number, key.deposits, key.succession) == ("active", 1, 1, b"")
    keys: messages.StatementKeyList = daemon.ask(messages.StatementKeys(), WEB)
    note = statement.verify(
        key.confirmation, [Verifier.from_vkey(line) for line in keys.keys[0].verifier_keys]
    )
    assert note.lines[:2] == (f"owner {name}", f"management-key {owner.statement.digest.hex()}")
    assert daemon.ask(messages.VaultKeys(name), AUDITOR) == listed
    with pytest.raises(NotFound, match="there is no client 'annna'"):
        daemon.ask(messages.VaultKeys("annna"), AUDITOR)
    with pytest.raises(NotFound):
        await confirm(daemon, name, Owner(name).statement.fingerprint)
    assert not daemon.ask(messages.VaultConfirm(name, registered.fingerprint)).changed
    events = [each for each in daemon.audit() if each.get("fields", {}).get("owner") == name]
    assert [each["event"] for each in events] == ["vault.registered", "vault.confirmed", "vault.deposited"]


# --- the life of a record ---


async def test_the_whole_life_of_a_record(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "www", max_uses=3, mode=DENY, not_after=in_future(days=365))
    acquired = await owner.get(connection, "www")
    assert owner.open(acquired) == pkcs8_of(deposit.key)
    assert (acquired.version, acquired.requests, acquired.released, acquired.uses_left) == (1, 1, 1, 2)
    assert acquired.text == deposit.statement.encode()
    assert acquired.public == deposit.spki

    second = await owner.put(connection, "www", 2)
    answer = await check(connection, owner.name, second.spki)
    assert (answer.verdict, answer.state, answer.usable) == (Verdict.MATCH, State.ACTIVE, True)
    answer = await check(connection, owner.name, deposit.spki)
    assert (answer.verdict, answer.reason, answer.usable, answer.uses_left) == (
        Verdict.MATCH_PREVIOUS, Reason.SUPERSEDED, False, 2,
    )  # fmt: skip
    assert owner.open(await owner.get(connection, "www", 1)) == pkcs8_of(deposit.key)

    await owner.limit(connection, deposit, max_uses=2)
    with pytest.raises(Conflict, match="version 1 of www is not given out: it was taken out 2 times"):
        await owner.get(connection, "www", 1)
    await connection.control(messages.VaultSuspend("www", 2, "lost a laptop"), timeout_s=5)
    with pytest.raises(Conflict, match="suspended"):
        await owner.get(connection, "www")
    await owner.ask(connection, messages.VaultResume("www", 2), "www", 2)
    assert owner.open(await owner.get(connection, "www")) == pkcs8_of(second.key)

    await owner.revoke(connection, second, compromised=True)
    with pytest.raises(Conflict, match="compromised"):
        await owner.get(connection, "www")
    answer = await check(connection, owner.name, second.spki, "www")
    assert (answer.verdict, answer.state, answer.usable) == (Verdict.MATCH, State.COMPROMISED, False)
    await owner.destroy(connection, second)
    versions = await shown(connection, "www")
    assert {each.key_type for each in versions} == {"p-256"}
    assert [(each.version, each.state, each.requests, each.released) for each in versions] == [
        (2, "destroyed-compromised", 3, 1), (1, "deactivated", 3, 2),
    ]  # fmt: skip
    page: messages.VaultStatementPage = await connection.control(
        messages.VaultStatements("www", 2), timeout_s=5
    )
    assert [each.number for each in page.statements] == [1, 2, 3]
    listed: messages.VaultPage = await connection.control(messages.VaultList(), timeout_s=5)
    assert [(each.record, each.version) for each in listed.records] == [("www", 2)]

    mine = [each["fields"] for each in daemon.audit("vault.acquired") if each["client"] == owner.name]
    assert [(each["version"], each["request"], each.get("released"), each.get("refusal")) for each in mine] == [
        (1, 1, 1, None), (1, 2, 2, None), (1, 3, None, "limit"),
        (2, 1, None, "suspended"), (2, 2, 1, None), (2, 3, None, "owner"),
    ]  # fmt: skip


async def test_the_wrapping_key_proves_too(daemon: Daemon) -> None:
    name = f"owner-{os.urandom(4).hex()}"
    async with confirmed_owner(daemon, name, suite=WrappingSuite.X25519) as (owner, connection):
        deposit = await owner.put(connection, "www")
        acquired = await owner.get(connection, "www", opened=True)
        assert owner.open(acquired) == pkcs8_of(deposit.key)


async def test_keys_that_do_not_sign_open_a_challenge_to_be_deposited(owned: Owned) -> None:
    owner, connection = owned
    key = x25519.X25519PrivateKey.generate()
    deposit = owner.deposit("dh", key=key)
    text, signature = owner.signed(deposit.statement)
    challenged = await owner.challenge(connection, "vault.put", "dh", 1, key=spki_of(key))
    secret = proofs.open_possession(challenged.possession, challenged.nonce, key)
    possession = proofs.answer_possession(
        secret,
        proofs.possession_text(
            "test", connection.channel_binding, owner.name, "dh", 1, deposit.statement.key, challenged.nonce
        ),
    )
    request = messages.VaultPut(
        text, signature, deposit.envelope, deposit.spki, possession.kind.value, possession.value
    )
    made = proofs.sign_proof(owner.signing, owner.context(connection, challenged, request, "dh", 1))
    request.proof = messages.VaultProof(challenged.nonce, made.kind.value, made.value)
    await connection.control(request, timeout_s=5)
    assert owner.open(await owner.get(connection, "dh")) == pkcs8_of(key)


async def test_a_public_half_without_its_private_key_is_not_deposited(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = owner.deposit("www")
    deposit.key, theirs = new_key(), deposit.key
    with pytest.raises(BadRequest, match="public"):
        await connection.control(await owner.put_request(connection, deposit), timeout_s=5)
    deposit.key = theirs
    request = await owner.put_request(connection, deposit, possession_by=new_key())
    with pytest.raises(Refused):
        await connection.control(request, timeout_s=5)
    assert daemon.audit("vault.refused")[-1]["fields"]["about"] == "possession"
    with pytest.raises(NotFound):
        await shown(connection, "www")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2}, "about"),
        ({"owner": "mallory"}, "mallory"),
        ({"not_after": "2020-01-01T00:00:00Z"}, "has passed"),
        ({"stated_at": "2199-01-01T00:00:00Z"}, "future"),
        ({"envelope": "00" * 32}, "envelope"),
        ({"management": "00" * 32}, "management"),
    ],
)
async def test_a_deposit_that_is_not_as_stated_is_refused(
    owned: Owned, changes: dict[str, Any], fault: str
) -> None:
    owner, connection = owned
    deposit = owner.deposit("www")
    deposit.statement = replace(deposit.statement, **changes)
    with pytest.raises((BadRequest, Conflict), match=fault):
        await connection.control(await owner.put_request(connection, deposit), timeout_s=5)


async def test_a_version_follows_the_one_before(owned: Owned) -> None:
    owner, connection = owned
    with pytest.raises(Conflict):
        await owner.put(connection, "www", 2)
    first = await owner.put(connection, "www")
    with pytest.raises(Conflict):
        await owner.put(connection, "www", 1)
    with pytest.raises(Conflict):
        await owner.put(connection, "mail", 1, first.key)


# --- replacement and loss of a management key ---


async def test_a_replacement_wraps_every_deposit_anew_and_the_old_key_proves_nothing(
    owned: Owned, daemon: Daemon
) -> None:
    old, connection = owned
    deposits = [await old.put(connection, f"site-{number}") for number in range(3)]
    used_up = await old.put(connection, "used-up", max_uses=1, mode=DENY)
    await old.get(connection, "used-up")
    new = old.successor()
    registered = await old.replace_with(connection, new)
    assert registered.state == "active"
    with pytest.raises(Refused):
        await old.get(connection, "site-0")
    assert old.open(await new.get(connection, "site-0")) == pkcs8_of(deposits[0].key)
    with pytest.raises(Conflict):
        await new.ask(connection, messages.VaultRekeyFinish())
    page: messages.VaultRekeyPage = await new.ask(connection, messages.VaultRekeyList(limit=3))
    assert [(each.record, each.version) for each in page.items] == [
        ("site-0", 1), ("site-1", 1), ("site-2", 1),
    ]  # fmt: skip
    assert page.more
    assert page.items[1].envelope == deposits[1].envelope
    read = [each["fields"] for each in daemon.audit("vault.rekey-read") if each["client"] == old.name]
    assert [(each["count"], each["first"], each["last"]) for each in read] == [(3, "site-0/1", "site-2/1")]
    for deposit in (*deposits, used_up):
        await new.rewrap(connection, deposit)
    assert not (await new.ask(connection, messages.VaultRekeyList())).items
    await new.ask(connection, messages.VaultRekeyFinish())
    for deposit in deposits:
        acquired = await new.get(connection, deposit.statement.record)
        assert new.open(acquired) == pkcs8_of(deposit.key)
        answer = await check(connection, new.name, deposit.spki)
        assert (answer.verdict, answer.usable) == (Verdict.MATCH, True)
    (version,) = await shown(connection, "used-up")
    assert (version.requests, version.released) == (1, 1)
    listed: messages.ManagementKeyList = await connection.control(messages.VaultKeys(), timeout_s=5)
    assert [(key.number, key.state) for key in listed.keys] == [(2, "active"), (1, "retired")]
    told = [each.payload for each in await events_of(daemon, old.name, "vault.replaced")]
    assert [(each["number"], each["previous"], each["finished"]) for each in told] == [
        (2, 1, False), (2, 1, True),
    ]  # fmt: skip


async def test_a_new_envelope_under_the_same_key_or_with_other_limits_is_no_replacement(owned: Owned) -> None:
    old, connection = owned
    deposit = await old.put(connection, "site")
    with pytest.raises((BadRequest, Conflict)):
        await old.rewrap(connection, deposit)
    new = old.successor()
    await old.replace_with(connection, new)
    envelope = new.seal(deposit.key, "site", 1)
    with pytest.raises(BadRequest, match="max_uses"):
        await new.state(
            connection,
            messages.VaultRekeyWrap,
            deposit,
            envelope,
            management=new.statement.digest.hex(),
            envelope=sha256(envelope).hexdigest(),
            max_uses=5,
        )


async def test_deposits_under_a_lost_key_are_held_back(owned: Owned, daemon: Daemon) -> None:
    lost, connection = owned
    deposit = await lost.put(connection, "site")
    new = lost.successor()
    registered = await new.register(connection)
    assert registered.state == "pending"
    assert lost.open(await lost.get(connection, "site")) == pkcs8_of(deposit.key)
    await confirm(daemon, lost.name, registered.fingerprint)
    with pytest.raises(Refused):
        await lost.get(connection, "site")
    with pytest.raises(Conflict, match="lost"):
        await new.get(connection, "site")
    answer = await check(connection, lost.name, deposit.spki)
    assert (answer.verdict, answer.reason, answer.usable) == (
        Verdict.MATCH, Reason.LOST_MANAGEMENT_KEY, False,
    )  # fmt: skip
    again = await new.put(connection, "site", 2)
    answer = await check(connection, lost.name, again.spki)
    assert (answer.verdict, answer.usable) == (Verdict.MATCH, True)


# --- after a restore ---


async def test_what_a_restore_holds_is_given_out_once_its_limits_are_stated_again(
    owned: Owned, daemon: Daemon
) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "www", max_uses=3)
    store = Store(daemon.store_url)
    with store.write(versioned=False) as tx:
        version = tx.vault_versions.get(owner.name, "www")
        held = update(vault_versions).where(vault_versions.c.id == version.row).values(held=True)
        tx.connection.execute(held)
    store.close()
    with pytest.raises(Conflict, match="restored from a backup"):
        await owner.get(connection, "www")
    answer = await check(connection, owner.name, deposit.spki)
    assert (answer.verdict, answer.reason, answer.usable) == (Verdict.MATCH, Reason.RESTORED, False)
    # The owner has seen statements that the restore has lost: the numbers go on behind those.
    newer = replace(deposit.statement, number=7, previous=deposit.statement.digest.hex(), max_uses=2)
    await owner.ask(connection, messages.VaultLimits(*owner.signed(newer)), "www", 1)
    assert (await owner.get(connection, "www")).uses_left == 1
    deposit.statement = newer
    with pytest.raises(BadRequest, match="number"):
        jumped = replace(newer, number=12, previous=newer.digest.hex())
        await owner.ask(connection, messages.VaultLimits(*owner.signed(jumped)), "www", 1)


async def test_after_a_restore_a_management_key_proves_nothing_until_an_operator_confirms_it_again(
    owned: Owned, daemon: Daemon
) -> None:
    """It may have been stolen, and replaced after the backup was made: with a login, it would take every deposit."""
    owner, connection = owned
    deposit = await owner.put(connection, "www")
    store = Store(daemon.store_url)
    with store.write(versioned=False) as tx:
        mine = vault_management_keys.c.owner_id == tx.vault_versions.get(owner.name, "www").owner_row
        tx.connection.execute(update(vault_management_keys).where(mine).values(held=True))
    store.close()
    for refused in (
        owner.get(connection, "www"),
        owner.limit(connection, deposit),
        owner.put(connection, "mail"),
        owner.replace_with(connection, owner.successor()),
        owner.ask(connection, messages.VaultAllow("", True)),
    ):
        with pytest.raises(Refused):
            await refused
    rules = [each["fields"]["rule"] for each in daemon.audit("vault.refused") if each["client"] == owner.name]
    assert rules == ["held-management-key"] * 5
    answer = await check(connection, owner.name, deposit.spki)
    assert (answer.verdict, answer.reason, answer.usable) == (Verdict.MATCH, Reason.RESTORED, False)
    listed: messages.ManagementKeyList = await connection.control(messages.VaultKeys(), timeout_s=5)
    assert [(key.state, key.held) for key in listed.keys] == [("active", True)]

    with pytest.raises(BadRequest, match="another fingerprint"):
        await confirm(daemon, owner.name, "SHA256:" + 43 * "a")
    await confirm(daemon, owner.name, owner.statement.fingerprint)
    listed = await connection.control(messages.VaultKeys(), timeout_s=5)
    assert [(key.state, key.held) for key in listed.keys] == [("active", False)]
    confirmed = [each for each in daemon.audit("vault.confirmed") if each["fields"]["owner"] == owner.name]
    assert len(confirmed) == 2, "each with a note of its own, which is the same within a second"
    assert owner.open(await owner.get(connection, "www")) == pkcs8_of(deposit.key)
    answer = await check(connection, owner.name, deposit.spki)
    assert (answer.verdict, answer.usable) == (Verdict.MATCH, True)


# --- checks ---


async def test_who_may_check_and_who_reads_that(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "www")
    checker = f"checker-{os.urandom(4).hex()}"
    add_client(daemon, checker, "checker")
    async with daemon.connection(WEB) as web, daemon.connection(checker) as other:
        refused = await check(web, owner.name, deposit.spki)
        unknown = await check(web, "no-such-owner", deposit.spki)
        assert refused.verdict is unknown.verdict is Verdict.NO_ANSWER
        assert replace(refused, owner="x", at=unknown.at) == replace(unknown, owner="x")
        assert (await owner.ask(connection, messages.VaultAllow(WEB))).changed
        assert (await check(web, owner.name, deposit.spki)).verdict is Verdict.MATCH
        assert (await check(web, owner.name, spki_of(new_key()))).verdict is Verdict.MISMATCH
        assert (await check(web, owner.name, deposit.spki, "mail")).verdict is Verdict.MISMATCH
        assert (await check(other, owner.name, deposit.spki)).verdict is Verdict.NO_ANSWER
        await owner.ask(connection, messages.VaultAllow(checkers=True))
        assert (await check(other, owner.name, deposit.spki)).verdict is Verdict.MATCH
        allowed: messages.VaultAllowedList = await connection.control(messages.VaultAllowed(), timeout_s=5)
        assert (allowed.clients, allowed.checkers) == ([WEB], True)
        await owner.ask(connection, messages.VaultDisallow(WEB))
        await owner.ask(connection, messages.VaultDisallow(checkers=True))
        assert (await check(web, owner.name, deposit.spki)).verdict is Verdict.NO_ANSWER
        assert (await check(other, owner.name, deposit.spki)).verdict is Verdict.NO_ANSWER

    async def sums() -> dict[tuple[str, str, str], int]:
        page: messages.VaultCheckPage = await connection.control(messages.VaultChecks(), timeout_s=5)
        return {(each.asker, each.record, each.verdict): each.count for each in page.sums}

    expected = {
        (WEB, "", "no-answer"): 2, (WEB, "www", "match"): 1, (WEB, "", "mismatch"): 2,
        (checker, "", "no-answer"): 2, (checker, "www", "match"): 1,
    }  # fmt: skip
    async with asyncio.timeout(10):
        while await sums() != expected:
            await asyncio.sleep(0.1)
    (version,) = await shown(connection, "www")
    assert (version.requests, version.released) == (0, 0), "checks count no uses"
    recorded = [
        (each["client"], each["fields"]["verdict"], each["fields"].get("record", ""))
        for each in daemon.audit("vault.checked")
        if each["fields"]["owner"] == owner.name
    ]
    assert len(recorded) == 8
    assert recorded[1] == (WEB, "match", "www")


async def test_an_answer_is_signed_and_names_asker_nonce_and_time(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "www")
    keys: messages.StatementKeyList = daemon.ask(messages.StatementKeys(), WEB)
    pinned = [Verifier.from_vkey(line) for line in keys.keys[0].verifier_keys]
    checked: messages.VaultChecked = await connection.control(
        messages.VaultCheck(owner.name, deposit.spki, NONCE), timeout_s=5
    )
    stated = statement.verify(checked.statement, pinned, "vault-answer")
    answer = Answer.from_lines(stated.lines)
    assert (stated.daemon, answer.asker, answer.nonce) == ("test", owner.name, NONCE.hex())
    assert answer.at <= in_future(seconds=1)
    with pytest.raises(BadRequest, match="public key"):
        await check(connection, owner.name, b"no key")
    with pytest.raises(BadRequest, match="nonce"):
        await connection.control(messages.VaultCheck(owner.name, deposit.spki, b"short"), timeout_s=5)


async def test_checks_of_one_client_are_limited(owned: Owned) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "www")
    many = await asyncio.gather(
        *(check(connection, owner.name, deposit.spki) for _ in range(40)), return_exceptions=True
    )
    refused = [each for each in many if isinstance(each, HsmdError)]
    assert {type(each) for each in refused} == {Overloaded}
    assert all(each.retry_after_ms for each in refused)
    assert len(many) - len(refused) >= 8


# --- terms and uses ---


async def events_of(daemon: Daemon, owner: str, kind: str = "vault.") -> list[messages.Event]:
    async with daemon.connection(OPERATOR) as operator:
        page: messages.EventPage = await operator.control(messages.EventsRead(limit=500), timeout_s=5)
    return [each for each in page.events if each.kind.startswith(kind) and each.subject.startswith(owner)]


async def test_over_use_is_announced_once(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    await owner.put(connection, "notify", max_uses=1)
    for _ in range(3):
        await owner.get(connection, "notify")
    await owner.put(connection, "deny", max_uses=1, mode=DENY)
    await owner.get(connection, "deny")
    for _ in range(2):
        with pytest.raises(Conflict):
            await owner.get(connection, "deny")
    told = [(each.kind, each.subject) for each in await events_of(daemon, owner.name)]
    assert told.count(("vault.over-use", f"{owner.name}/notify")) == 1
    assert told.count(("vault.over-use", f"{owner.name}/deny")) == 1


async def test_the_end_of_a_term_is_announced_once_and_enforced(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "short", not_after=in_future(seconds=4))
    await owner.get(connection, "short")

    async def told() -> list[str]:
        return [each.kind for each in await events_of(daemon, owner.name)]

    async with asyncio.timeout(20):
        while "vault.expired" not in await told():
            await asyncio.sleep(0.1)
    with pytest.raises(Conflict, match="its term ended"):
        await owner.get(connection, "short")
    answer = await check(connection, owner.name, deposit.spki)
    assert (answer.verdict, answer.reason, answer.usable) == (Verdict.MATCH, Reason.EXPIRED, False)
    await owner.limit(connection, deposit, not_after=in_future(days=90))
    await owner.get(connection, "short")
    assert (await told()).count("vault.expired") == 1
    assert (await told()).count("vault.expiring") >= 1


# --- metrics ---


async def test_acquisitions_and_checks_are_counted_without_names(owned: Owned, daemon: Daemon) -> None:
    owner, connection = owned
    deposit = await owner.put(connection, "counted", max_uses=1, mode=DENY)
    before: messages.Metrics = daemon.ask(messages.MetricsRead(), AUDITOR)
    await owner.get(connection, "counted")
    with pytest.raises(Conflict):
        await owner.get(connection, "counted")
    for record in ("counted", "counted", "other"):
        await check(connection, owner.name, deposit.spki, record)
    await check(connection, "no-such-owner", deposit.spki)
    after: messages.Metrics = daemon.ask(messages.MetricsRead(), AUDITOR)
    assert before.vault is not None and after.vault is not None
    assert (after.vault.given - before.vault.given, after.vault.refused - before.vault.refused) == (1, 1)
    more = {
        verdict: count - before.vault.checks.get(verdict, 0) for verdict, count in after.vault.checks.items()
    }
    assert {verdict: count for verdict, count in more.items() if count} == {
        "match": 2, "mismatch": 1, "no-answer": 1,
    }  # fmt: skip
