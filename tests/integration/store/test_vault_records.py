"""Deposits and what their owners state later, on both databases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from hsmd.daemon.store import (
    EventRecord,
    Given,
    KeyState,
    NotGiven,
    Readers,
    Store,
    VersionRecord,
    vault_owner_rows,
    vault_record_rows,
)
from hsmd.envelopes.vault.life_cycle import Reason, State
from hsmd.envelopes.vault.records import Mode, RecordStanding
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.roles import Role
from tests.support.vault_store import Owner

HOUR = timedelta(hours=1)


@pytest.fixture
def ann(store: Store) -> Owner:
    owner = Owner(store).enrol()
    owner.begin()
    return owner


@pytest.fixture
def bob(store: Store) -> Owner:
    owner = Owner(store, "bob").enrol()
    owner.begin()
    return owner


def events(store: Store) -> list[EventRecord]:
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.AUDITOR})), None))
    return [each for each in page.events if each.kind not in ("vault.registered", "vault.confirmed")]


def usage(owner: Owner) -> tuple[int, int]:
    found = owner.store.query(lambda tx: tx.vault_owners.usage(owner.name))
    return found.versions, found.bytes


def really_kept(owner: Owner) -> int:
    """Bytes of envelopes, statements and public halves."""

    def read(tx: Any) -> int:
        size = 0
        for summary in tx.vault_versions.page(owner.name, "", 1_000).items:
            for version in tx.vault_versions.versions(owner.name, summary.record).items:
                size += len(version.spki) + len(tx.vault_versions.envelope(version.row))
                statements = tx.vault_statements.page(version.row, 0, 1_000).items
                size += sum(len(each.text) + len(each.signature) for each in statements)
        return size

    return owner.store.query(read)


# --- deposits ---


def test_a_deposit_is_what_its_statement_says(ann: Owner, now: datetime) -> None:
    version = ann.store.version()
    end = now.replace(microsecond=0) + HOUR
    found = ann.put("web", not_before=now, not_after=end, max_uses=7, mode="deny", reason="first")
    statement = ann.heads["web", 1]
    assert found == ann.look()
    assert (found.owner, found.record, found.version, found.newest, found.kind) == (
        "ann",
        "web",
        1,
        1,
        "private-key",
    )
    assert (found.key.hex(), found.spki) == (statement.key, ann.spki("web", 1))
    assert (found.management, found.management_state) == (ann.management.digest, KeyState.ACTIVE)
    assert (found.number, found.head, found.suite) == (1, statement.digest, statement.suite.value)
    assert (found.standing, found.reason, found.compromised_at) == (RecordStanding.LIVE, "first", None)
    assert (found.not_before, found.not_after) == (now.replace(microsecond=0), end)
    assert (found.max_uses, found.mode, found.requests, found.released) == (7, Mode.DENY, 0, 0)
    assert (found.held, found.suspended_at, found.ended_at) == (False, None, None)
    assert (found.created_at, found.changed_at) == (now, now)
    assert found.judge(now).usable
    assert ann.store.version() == version
    assert events(ann.store) == []


def test_versions_have_no_gaps(ann: Owner) -> None:
    for version in (2, 999_999_999):
        with pytest.raises(Conflict, match="the next deposit of web is version 1"):
            ann.put("web", version)
    ann.put("web", 1)
    for version in (1, 3):
        with pytest.raises(Conflict, match="the next deposit of web is version 2"):
            ann.put("web", version, key="another")
    ann.put("web", 2)
    assert [(each.version, each.newest, each.superseded) for each in versions(ann)] == [
        (2, 2, False),
        (1, 2, True),
    ]


def versions(
    owner: Owner, record: str = "web", before: int = 0, limit: int = 100
) -> tuple[VersionRecord, ...]:
    return owner.store.query(lambda tx: tx.vault_versions.versions(owner.name, record, before, limit)).items


def test_a_refused_deposit_leaves_no_record_behind(ann: Owner) -> None:
    with pytest.raises(Conflict):
        ann.put("web", 2)
    with pytest.raises(NotFound, match="'ann' has no 'web' in the vault"):
        ann.look("web")
    with pytest.raises(NotFound, match="'ann' has no version 7 of 'web' in the vault"):
        ann.look("web", 7)
    with pytest.raises(NotFound):
        versions(ann)
    assert usage(ann) == (0, 0)


def test_deposits_need_the_active_management_key(ann: Owner, store: Store, now: datetime) -> None:
    carl = Owner(store, "carl").enrol()
    carl.management = ann.management
    with pytest.raises(Conflict, match="'carl' has no management key"):
        carl.put("web")
    old = ann.management
    ann.replace()
    ann.management = old
    with pytest.raises(Conflict, match="not the digest of the active management key of ann, number 2"):
        ann.put("web")


def test_the_statement_is_about_this_owner_and_envelope(ann: Owner, bob: Owner, now: datetime) -> None:
    statement = ann.sign(ann.deposit("web"))
    envelope, spki = ann.envelope("web", 1), ann.spki("web", 1)
    with pytest.raises(BadRequest, match="a statement of ann, not of bob"):
        bob.change(lambda tx: tx.vault_records.put("bob", statement, envelope, spki, now))
    with pytest.raises(BadRequest, match="envelope: its SHA-256 is not the one in the statement"):
        ann.change(lambda tx: tx.vault_records.put("ann", statement, envelope + b"!", spki, now))
    with pytest.raises(BadRequest, match="envelope: has 16385 bytes; 16384 are allowed"):
        ann.change(lambda tx: tx.vault_records.put("ann", statement, bytes(16_385), spki, now))


def test_names_are_those_of_one_owner(ann: Owner, bob: Owner) -> None:
    ann.put("web")
    bob.put("web")
    bob.destroy("web")
    assert ann.look("web").standing is RecordStanding.LIVE
    assert (usage(ann)[0], usage(bob)[0]) == (1, 0)


def test_a_key_is_deposited_once(ann: Owner, bob: Owner) -> None:
    ann.put("web", key="same")
    for record, version in (("mail", 1), ("web", 2)):
        with pytest.raises(Conflict, match="this key is web version 1 already"):
            ann.put(record, version, key="same")
    bob.put("mail", key="same")
    ann.destroy("web")
    ann.put("mail", key="same")
    found = find(ann, "same")
    assert [(each.record, each.standing.value) for each in found] == [("mail", "live"), ("web", "destroyed")]
    assert [each.record for each in find(bob, "same")] == ["mail"]


def find(owner: Owner, key: str, record: str = "") -> tuple[VersionRecord, ...]:
    digest = sha256(owner.spki("", 0, key)).digest()
    row = owner.store.query(lambda tx: tx.vault_checkers.owner_row(owner.name))
    return owner.store.query(lambda tx: tx.vault_versions.find_public(row, digest, record))


@pytest.mark.parametrize("destroyed", [False, True])
def test_a_compromised_key_does_not_come_back(ann: Owner, destroyed: bool) -> None:
    ann.put("web", key="leaked")
    ann.compromise("web")
    if destroyed:
        ann.destroy("web")
        assert ann.look("web").judge(ann.look("web").created_at).state is State.DESTROYED_COMPROMISED
    with pytest.raises(Conflict, match="this key is web version 1, which is compromised; make a new key"):
        ann.put("mail", key="leaked")


def test_pages(ann: Owner, bob: Owner, now: datetime) -> None:
    for record in ("b", "a", "C", "d"):
        ann.put(record)
    ann.put("a", 2)
    bob.put("z")

    def page(after: str, limit: int, owner: str = "ann") -> list[tuple[str, int]]:
        found = ann.store.query(lambda tx: tx.vault_versions.page(owner, after, limit))
        assert found.more == (len(found.items) == limit and found.items[-1].record != "d")
        return [(each.record, each.newest.version) for each in found.items]

    assert page("", 2) == [("C", 1), ("a", 2)]
    assert page("a", 3) == [("b", 1), ("d", 1)]
    assert page("", 9, owner="unknown") == []
    with pytest.raises(BadRequest, match=r"^after: "):
        page("a b", 9)
    assert [each.version for each in versions(ann, "a", limit=1)] == [2]
    assert [each.version for each in versions(ann, "a", before=2)] == [1]
    assert versions(ann, "a", before=1) == ()


# --- later statements ---


def test_limits_change(ann: Owner, now: datetime) -> None:
    ann.put("web", max_uses=1)
    later = now + HOUR
    end = now.replace(microsecond=0) + 2 * HOUR
    found = ann.limit(now=later, max_uses=5, mode="deny", not_before=now, not_after=end, reason="more")
    assert (found.number, found.head) == (2, ann.heads["web", 1].digest)
    assert (found.max_uses, found.mode, found.not_after, found.reason) == (5, Mode.DENY, end, "more")
    assert (found.created_at, found.changed_at) == (now, later)
    assert ann.limit(max_uses=0, not_after=None, not_before=None, now=later).judge(later + 9 * HOUR).usable


def statements(owner: Owner, after: int = 0, limit: int = 100) -> list[int]:
    row = owner.look("web", 1).row
    page = owner.store.query(lambda tx: tx.vault_statements.page(row, after, limit))
    assert page.more == (bool(page.items) and page.items[-1].number < owner.heads["web", 1].number)
    return [each.number for each in page.items]


def test_all_statements_are_kept(ann: Owner) -> None:
    ann.put("web")
    for uses in range(1, 5):
        ann.limit(max_uses=uses)
    assert statements(ann) == [1, 2, 3, 4, 5]
    assert statements(ann, after=2, limit=2) == [3, 4]
    assert statements(ann, after=5) == []
    ann.destroy("web")
    assert statements(ann) == [1, 2, 3, 4, 5, 6]


Change = Callable[[Owner, dict[str, Any]], object]
CHANGES: dict[str, Change] = {
    "limit": lambda owner, more: owner.limit(max_uses=9, **more),
    "revoke": lambda owner, more: owner.revoke(**more),
    "destroy": lambda owner, more: owner.change(
        lambda tx: tx.vault_records.destroy(
            "ann",
            owner.sign(owner.next(standing=RecordStanding.DESTROYED, envelope="", **more)),
            owner.look().created_at,
        )
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("number", [2, 4, 5])
def test_a_statement_follows_on_the_newest_one(ann: Owner, change: Change, number: int) -> None:
    ann.put("web")
    ann.limit(max_uses=1)
    before = ann.look()
    with pytest.raises(
        Conflict, match=f"the newest statement about web version 1 has the number 2 .*{before.head.hex()}"
    ):
        change(ann, {"number": number, "previous": before.head.hex()})
    with pytest.raises(Conflict, match="the newest statement about web version 1"):
        change(ann, {"previous": "00" * 32})
    assert ann.look() == before


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        ("limit", {"management": "00" * 32}, "management"),
        ("limit", {"standing": RecordStanding.REVOKED}, "standing"),
        ("limit", {"key": "00" * 32}, "key"),
        ("revoke", {"max_uses": 3}, "max_uses"),
        ("revoke", {"standing": RecordStanding.LIVE}, "neither revoked nor compromised"),
        ("destroy", {"max_uses": 3}, "max_uses"),
        ("limit", {"stated_at": "2020-01-01T00:00:00Z"}, "stated_at"),
    ],
)
def test_each_request_changes_what_is_its_own(
    ann: Owner, change: str, more: dict[str, Any], says: str
) -> None:
    ann.put("web")
    before = ann.look()
    with pytest.raises(BadRequest, match=f"^text: .*{says}"):
        CHANGES[change](ann, more)
    assert ann.look() == before


def test_a_statement_of_another_owner_is_refused(ann: Owner, bob: Owner, now: datetime) -> None:
    ann.put("web")
    bob.put("web")
    stolen = ann.sign(ann.next(max_uses=9))
    with pytest.raises(BadRequest, match="a statement of ann, not of bob"):
        bob.change(lambda tx: tx.vault_records.limit("bob", stolen, now))


def test_the_standing_goes_one_way(ann: Owner, now: datetime) -> None:
    ann.put("web")
    assert ann.revoke(reason="left").standing is RecordStanding.REVOKED
    with pytest.raises(Conflict, match="web version 1 is revoked; deposit a new version"):
        ann.limit(max_uses=3)
    with pytest.raises(BadRequest, match="standing does not go from revoked to live"):
        ann.change(
            lambda tx: tx.vault_records._apply(
                ann.look(), ann.sign(ann.next(standing=RecordStanding.LIVE)), frozenset({"standing"}), now
            )
        )
    assert ann.compromise().compromised_at == now.replace(microsecond=0)
    with pytest.raises(BadRequest, match="standing does not go from compromised to revoked"):
        ann.revoke(compromised_at="")
    ann.destroy()
    with pytest.raises(Conflict, match="web version 1 is destroyed already"):
        ann.destroy()
    with pytest.raises(Conflict, match="is destroyed"):
        ann.limit(max_uses=3)
    assert [each.kind for each in events(ann.store)] == [
        "vault.revoked",
        "vault.compromised",
        "vault.destroyed",
    ]
    assert events(ann.store)[0].payload == {"version": 1, "key": ann.look().key.hex(), "reason": "left"}
    assert usage(ann)[0] == 0


def test_destroying_deletes_the_envelope_and_keeps_the_rest(ann: Owner) -> None:
    before = ann.put("web")
    after = ann.destroy("web")
    assert ann.store.query(lambda tx: tx.vault_versions.envelope(before.row)) == b""
    assert (after.spki, after.key, after.standing) == (before.spki, before.key, RecordStanding.DESTROYED)
    ann.put("web", 2)
    assert ann.look("web").version == 2


def test_suspended_until_it_is_resumed(ann: Owner, now: datetime) -> None:
    ann.put("web")
    later = now + HOUR
    suspend = lambda reason, at: ann.change(  # noqa: E731
        lambda tx: tx.vault_records.suspend("ann", "web", 1, reason, at)
    )
    resume = lambda: ann.change(lambda tx: tx.vault_records.resume("ann", "web", 1, later))  # noqa: E731
    assert resume().suspended_at is None
    assert suspend("stolen", now).suspended_reason == "stolen"
    assert (suspend("again", later).suspended_at, ann.look().suspended_reason) == (now, "stolen")
    assert ann.look().judge(now).state is State.SUSPENDED
    assert ann.limit(max_uses=4).suspended_at == now, "limits do not resume it"
    assert resume().suspended_at is None
    assert [(each.kind, each.payload.get("reason")) for each in events(ann.store)] == [
        ("vault.suspended", "stolen"),
        ("vault.resumed", None),
    ]
    for reason in ("x" * 257, "two\nlines"):
        with pytest.raises(BadRequest, match=r"^reason: "):
            suspend(reason, now)
    ann.destroy()
    with pytest.raises(Conflict, match="web version 1 is destroyed"):
        suspend("", now)
    with pytest.raises(NotFound):
        ann.change(lambda tx: tx.vault_records.suspend("ann", "mail", 1, "", now))


def test_rewrapping_changes_the_envelope_only(ann: Owner, now: datetime) -> None:
    before = ann.put("web", max_uses=3)
    ann.get()
    ann.replace()
    assert ann.look().management_state is KeyState.REPLACED
    after = ann.rewrap("web")
    assert ann.store.query(lambda tx: tx.vault_versions.envelope(before.row)) == ann.envelope("web", 1)
    assert (after.management, after.management_state) == (ann.management.digest, KeyState.ACTIVE)
    changed = {
        name for name in VersionRecord.__dataclass_fields__ if getattr(before, name) != getattr(after, name)
    }
    assert changed == {"management", "number", "head", "requests", "released"}
    statement = ann.sign(ann.next(max_uses=99))
    with pytest.raises(BadRequest, match="max_uses"):
        ann.change(lambda tx: tx.vault_records.rewrap("ann", statement, ann.envelope("web", 1), now))


def test_what_is_left_under_a_management_key(ann: Owner, bob: Owner) -> None:
    for record in ("a", "b", "c"):
        ann.put(record)
    ann.put("b", 2)
    bob.put("a")
    ann.destroy("c")
    digest = ann.management.digest

    def left(after: str, limit: int) -> tuple[list[str], bool]:
        page = ann.store.query(lambda tx: tx.vault_versions.sealed_to("ann", digest, after, limit))
        return [f"{each.record}/{each.version}" for each in page.items], page.more

    assert left("", 2) == (["a/1", "b/1"], True)
    assert left("b/1", 2) == (["b/2"], False)
    for after in ("b", "b/x", "b/0", "b/٣", "b/9999999999"):
        with pytest.raises(BadRequest, match=r"^after: "):
            left(after, 2)
    with pytest.raises(NotFound):
        left("b/3", 2)
    ann.replace()
    assert left("", 9)[0] == ["a/1", "b/1", "b/2"]
    ann.rewrap("b", 1)
    assert left("", 9)[0] == ["a/1", "b/2"]


# --- quotas ---


def test_bytes_are_counted(ann: Owner) -> None:
    for record in ("a", "b"):
        ann.put(record)
    ann.limit("a", max_uses=3)
    ann.replace()
    ann.rewrap("a")
    ann.revoke("b")
    assert usage(ann) == (2, really_kept(ann))
    ann.destroy("b")
    assert usage(ann) == (1, really_kept(ann))


def test_a_full_vault_can_be_emptied(ann: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    ann.put("a")
    ann.put("b")
    ann.replace()
    size = usage(ann)[1]
    monkeypatch.setattr(vault_record_rows, "MAX_BYTES", size)
    with pytest.raises(BadRequest, match=f"and {size} are allowed; destroy versions"):
        ann.put("c")
    with pytest.raises(BadRequest, match=f"and {size} are allowed"):
        ann.limit("a", max_uses=3)
    ann.rewrap("a")
    ann.revoke("a")
    with pytest.raises(BadRequest, match=f"and {size} are allowed"):
        ann.revoke("a", reason="again")
    ann.destroy("a")
    ann.destroy("b")
    assert usage(ann) == (0, really_kept(ann))


def test_versions_are_limited(ann: Owner, bob: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_owner_rows, "MAX_VERSIONS", 2)
    ann.put("a")
    ann.put("a", 2)
    with pytest.raises(BadRequest, match="ann has 2 versions in the vault, and 2 are allowed"):
        ann.put("b")
    bob.put("b")
    ann.destroy("a", 1)
    ann.put("b")


def test_statements_about_a_version_are_limited(ann: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_record_rows, "MAX_STATEMENTS", 2)
    ann.put("web")
    ann.limit(max_uses=1)
    with pytest.raises(BadRequest, match="there are 2 statements about web version 1, which is the most"):
        ann.limit(max_uses=2)
    ann.replace()
    ann.rewrap()
    ann.revoke()
    with pytest.raises(BadRequest, match="which is the most"):
        ann.revoke(reason="again")
    ann.compromise()
    ann.destroy()


# --- restores ---


def test_after_a_restore_everything_is_held(
    ann: Owner, restored: Callable[[bytes], Store], now: datetime
) -> None:
    ann.put("web", max_uses=5)
    ann.put("mail", mode="notify")
    ann.put("gone")
    ann.destroy("gone")
    ann.get("web")
    document = ann.store.export()
    seen_later = ann.limit("web", max_uses=2)
    assert isinstance(ann.get("web"), Given)

    heads = dict(ann.heads)
    ann.store = restored(document)
    ann.heads["web", 1] = dataclasses.replace(heads["web", 1], number=1, previous="", max_uses=5)
    assert ann.heads["web", 1].digest == ann.look("web").head
    assert (ann.look("web").requests, ann.look("web").held, ann.look("mail").held) == (1, True, True)
    for record in ("web", "mail"):
        refused = ann.get(record)
        assert isinstance(refused, NotGiven)
        assert (refused.standing.reason, refused.standing.usable) == (Reason.RESTORED, False)
    assert ann.look("gone").judge(now).state is State.DESTROYED
    assert ann.change(lambda tx: tx.vault_acquisitions.all_of("a.example/log")) != []
    key = ann.management.digest
    ann.change(lambda tx: tx.vault_keys.confirm("ann", key, "again", now))  # or it would hold both

    number = seen_later.number
    with pytest.raises(Conflict, match="the newest statement about web version 1 has the number 1"):
        ann.limit("web", max_uses=2, number=1, previous="")
    found = ann.limit("web", max_uses=2, number=number + 1)
    assert (found.held, found.number, found.requests, found.released) == (False, number + 1, 2, 1)
    assert isinstance(ann.get("web"), Given)
    assert isinstance(ann.get("mail"), NotGiven)
    with pytest.raises(Conflict):
        ann.limit("web", max_uses=2, number=number + 9)
    ann.limit("mail")
    assert isinstance(ann.get("mail"), Given)


def test_acquisitions_of_the_old_daemon_are_not_restored(
    ann: Owner, restored: Callable[[bytes], Store]
) -> None:
    ann.put("web")
    ann.get()
    assert len(ann.change(lambda tx: tx.vault_acquisitions.all_of("a.example/log"))) == 1
    again = restored(ann.store.export())
    assert again.change(lambda tx: tx.vault_acquisitions.all_of("a.example/log"), versioned=False) == []


def test_a_held_version_can_be_ended_and_rewrapped_without_being_released(
    ann: Owner, restored: Callable[[bytes], Store]
) -> None:
    for record in ("a", "b", "c"):
        ann.put(record)
    ann.store = restored(ann.store.export())
    ann.replace()
    assert ann.rewrap("a").held
    assert ann.revoke("b").held
    assert ann.destroy("c").standing is RecordStanding.DESTROYED
    ann.change(lambda tx: tx.vault_records.suspend("ann", "a", 1, "", ann.look("a").created_at))
    ann.change(lambda tx: tx.vault_records.resume("ann", "a", 1, ann.look("a").created_at))
    assert ann.look("a").held


def test_row_ids_are_not_given_out_again(ann: Owner, restored: Callable[[bytes], Store]) -> None:
    first = ann.put("web")
    again = restored(ann.store.export())
    ann.store = again
    assert ann.put("mail").row > first.row


def test_two_deposits_of_one_key_at_once(make_store: Callable[[], Store], ann: Owner, now: datetime) -> None:
    other = Owner(make_store())
    other.management = ann.management
    with ThreadPoolExecutor(1) as pool:
        with ann.store.write(versioned=False) as tx:
            statement = ann.sign(ann.deposit("web", key="same"))
            tx.vault_records.put("ann", statement, ann.envelope("web", 1), ann.spki("web", 1, "same"), now)
            late = pool.submit(other.put, "mail", key="same")
            with pytest.raises(TimeoutError):
                late.result(0.2)
        with pytest.raises(Conflict, match="this key is web version 1 already"):
            late.result(30)
