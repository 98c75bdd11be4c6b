"""Statements about records: what an owner signs of each deposit, and which statement may follow which."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes import canonical_json
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES, Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.envelopes.vault import signing
from hsmd.envelopes.vault.about import challenge_about, deposit_about
from hsmd.envelopes.vault.fields import MAX_COUNT, MAX_TEXT_BYTES
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.envelopes.vault.records import (
    DESTROY,
    LIMITS,
    REVOKE,
    REWRAP,
    Mode,
    RecordStanding,
    RecordStatement,
    SignedStatement,
    changed,
    check_envelope,
    follows,
)
from hsmd.envelopes.vault.signing import SigningPublicKey
from hsmd.envelopes.vault.symmetric import key_check
from hsmd.errors import EnvelopeInvalid, ProofInvalid
from tests.support.envelopes import contents
from tests.support.mutations import cuts_and_extensions, single_byte_changes
from tests.support.vault_formats import OWNER, RECORD, deposit, owner, signing_key, spki

SUITES = [(suite, of) for of in WrappingSuite for suite in sorted(of.suites)]
LATER = "2026-03-02T12:00:00Z"
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TIMES = st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat() + "Z")
COUNTS = st.integers(1, MAX_COUNT)


@st.composite
def statements(draw: st.DrawFn) -> RecordStatement:
    """Any statement that can be made."""
    number = draw(COUNTS)
    standing = RecordStanding.LIVE if number == 1 else draw(st.sampled_from(RecordStanding))
    compromised = standing is RecordStanding.COMPROMISED or (
        standing is RecordStanding.DESTROYED and draw(st.booleans())
    )
    term = sorted(draw(st.sets(TIMES, min_size=2, max_size=2)))
    return RecordStatement(
        owner=draw(NAMES),
        record=draw(NAMES),
        version=draw(COUNTS),
        number=number,
        previous="" if number == 1 else draw(DIGESTS),
        stated_at=draw(TIMES),
        kind=draw(st.sampled_from(Kind)),
        key=draw(DIGESTS),
        suite=draw(st.sampled_from(Suite)),
        envelope="" if standing is RecordStanding.DESTROYED else draw(DIGESTS),
        management=draw(DIGESTS),
        not_before=draw(st.sampled_from(["", term[0]])),
        not_after=draw(st.sampled_from(["", term[1]])),
        max_uses=draw(st.just(0) | COUNTS),
        mode=draw(st.sampled_from(Mode)),
        standing=standing,
        reason=draw(st.text(max_size=256).filter(str.isprintable)),
        compromised_at=draw(TIMES) if compromised else "",
    )


def first(**changes: Any) -> RecordStatement:
    """The statement of a deposit."""
    return replace(deposit(Suite.HPKE_P256, WrappingSuite.P256)[1], **changes)


def after(older: RecordStatement, **changes: Any) -> RecordStatement:
    """The next statement, with these changes."""
    members: dict[str, Any] = {"number": older.number + 1, "previous": older.digest.hex(), "stated_at": LATER}
    return replace(older, **(members | changes))


@given(statements())
def test_a_statement_comes_back(statement: RecordStatement) -> None:
    text = statement.encode()
    assert RecordStatement.decode(text) == statement
    assert RecordStatement.decode(text).encode() == text
    assert statement.digest == sha256(text).digest()


@pytest.mark.parametrize("by", ["p256", "ed25519", "rsa"])
def test_a_signed_statement_verifies_with_its_key_only(by: str) -> None:
    signed = signed_by(by, first())
    assert signed.verify(public(by)) == first()
    with pytest.raises(ProofInvalid):
        signed.verify(public(by, 1))


def public(by: str = "p256", number: int = 0) -> SigningPublicKey:
    return SigningPublicKey.from_spki(spki(signing_key(by, number).public_key()))


def signed_by(by: str, statement: RecordStatement) -> SignedStatement:
    text = statement.encode()
    return SignedStatement(text, signing.sign(signing_key(by), signing.Kind.RECORD, text))


@pytest.mark.parametrize("by", ["p256", "ed25519", "rsa"])
def test_every_single_byte_change_is_refused(by: str) -> None:
    good = signed_by(by, first(reason="J\u00fcrgen asked", not_after="2027-01-01T00:00:00Z", max_uses=10))
    good.verify(public(by))
    for altered in single_byte_changes(good.text):
        with pytest.raises((EnvelopeInvalid, ProofInvalid)):
            replace(good, text=altered).verify(public(by))
    for altered in single_byte_changes(good.signature):
        with pytest.raises(ProofInvalid):
            replace(good, signature=altered).verify(public(by))


def test_cuts_and_extensions_are_refused() -> None:
    for altered in cuts_and_extensions(first().encode()):
        with pytest.raises(EnvelopeInvalid):
            RecordStatement.decode(altered)


@given(st.binary(max_size=600))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        RecordStatement.decode(data)


@given(statements(), st.data())
def test_any_other_value_of_a_member_is_refused_or_is_another_statement(
    statement: RecordStatement, data: st.DataObject
) -> None:
    """Whatever stands in a member: either the text is refused, or it says exactly that."""
    value = canonical_json.decode(statement.encode())
    assert isinstance(value, dict)
    name = data.draw(st.sampled_from(sorted(value)))
    value[name] = data.draw(
        st.integers(-(2**53) + 1, 2**53 - 1)
        | st.booleans()
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.just([])
        | st.just({})
        | st.sampled_from([each for each in value.values() if each != value[name]])
    )
    text = canonical_json.encode(value)
    try:
        found = RecordStatement.decode(text)
    except EnvelopeInvalid:
        return
    assert found.encode() == text


def test_the_size_is_bounded_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical_json, "decode", None)
    with pytest.raises(EnvelopeInvalid, match=f"longer than {MAX_TEXT_BYTES}"):
        RecordStatement.decode(b" " * 10_000_000)


def members(**changes: Any) -> bytes:
    """A statement with other members; a value of None leaves the member out."""
    value = canonical_json.decode(first().encode())
    assert isinstance(value, dict)
    return canonical_json.encode({name: each for name, each in (value | changes).items() if each is not None})


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "hsmd-vault-record/2"}, "format"),
        ({"format": "hsmd-vault-management-key/1"}, "format"),
        ({"record": None}, "members"),
        ({"more": ""}, "members"),
        ({"owner": "anna/web"}, "owner"),
        ({"record": ""}, "record"),
        ({"record": "../web"}, "record"),
        ({"record": "web\n"}, "record"),
        ({"version": 0}, "version"),
        ({"version": MAX_COUNT + 1}, "version"),
        ({"version": True}, "version"),
        ({"number": 0}, "number"),
        ({"number": 2}, "previous"),
        ({"previous": DIGEST}, "previous"),
        ({"kind": "certificate"}, "kind"),
        ({"key": ""}, "key"),
        ({"key": DIGEST.upper()}, "key"),
        ({"suite": "rsa"}, "suite"),
        ({"envelope": ""}, "envelope"),
        ({"management": ""}, "management"),
        ({"not_before": "2026-01-01"}, "not_before"),
        ({"not_after": "never"}, "not_after"),
        ({"not_before": "2026-03-01T00:00:00Z", "not_after": "2026-03-01T00:00:00Z"}, "not after not_before"),
        ({"not_before": "2026-03-02T00:00:00Z", "not_after": "2026-03-01T00:00:00Z"}, "not after not_before"),
        ({"max_uses": -1}, "max_uses"),
        ({"max_uses": MAX_COUNT + 1}, "max_uses"),
        ({"max_uses": "10"}, "max_uses"),
        ({"max_uses": False}, "max_uses"),
        ({"mode": "allow"}, "mode"),
        ({"standing": "dead"}, "standing"),
        ({"standing": "revoked"}, "live in number 1"),
        ({"reason": "two\nlines"}, "reason"),
        ({"reason": "\u202etxt"}, "reason"),
        ({"reason": "a" * 257}, "reason"),
        ({"reason": 1}, "reason"),
        ({"compromised_at": "2026-03-01T00:00:00Z"}, "compromised_at"),
        ({"stated_at": ""}, "stated_at"),
    ],
)
def test_a_statement_with_other_members_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words):
        RecordStatement.decode(members(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"standing": RecordStanding.COMPROMISED}, "compromised_at"),
        ({"standing": RecordStanding.REVOKED, "compromised_at": LATER}, "compromised_at"),
        ({"standing": RecordStanding.DESTROYED}, "envelope"),
        ({"envelope": ""}, "envelope"),
    ],
)
def test_members_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words):
        after(first(), **changes)


# --- which statement may follow ---

COMPROMISED = {"standing": RecordStanding.COMPROMISED, "compromised_at": LATER}
REVOKED = {"standing": RecordStanding.REVOKED, "reason": "no longer used"}
DESTROYED = {"standing": RecordStanding.DESTROYED, "envelope": ""}


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"not_after": "2027-01-01T00:00:00Z", "max_uses": 5, "mode": Mode.DENY}, LIMITS),
        ({"not_before": "2026-01-01T00:00:00Z", "reason": "asked"}, LIMITS),
        ({}, LIMITS),
        (REVOKED, REVOKE),
        (COMPROMISED, REVOKE),
        (DESTROYED, DESTROY),
        (DESTROYED | {"compromised_at": LATER}, DESTROY),
        ({"management": DIGEST, "envelope": DIGEST, "suite": Suite.AES256_KWP}, REWRAP),
    ],
)
def test_a_statement_changes_what_its_request_is_about(
    changes: dict[str, Any], allowed: frozenset[str]
) -> None:
    newer = after(first(), **changes)
    follows(first(), newer, allowed)
    follows(first(), newer)
    assert changed(first(), newer) == set(changes) | {"number", "previous", "stated_at"}


@pytest.mark.parametrize(
    ("changes", "allowed", "words"),
    [
        ({"max_uses": 5}, REVOKE, "max_uses"),
        ({"not_after": LATER}, REWRAP, "not_after"),
        (REVOKED, LIMITS, "standing"),
        (DESTROYED, REVOKE, "envelope"),
        ({"management": DIGEST, "envelope": DIGEST}, LIMITS, "envelope, management"),
        ({"management": DIGEST, "envelope": DIGEST, "mode": Mode.DENY}, REWRAP, "mode"),
    ],
)
def test_a_statement_changes_nothing_else(
    changes: dict[str, Any], allowed: frozenset[str], words: str
) -> None:
    with pytest.raises(EnvelopeInvalid, match=f"{words} differs"):
        follows(first(), after(first(), **changes), allowed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"owner": "bert"}, "owner differs"),
        ({"record": "mail"}, "record differs"),
        ({"version": 2}, "version differs"),
        ({"kind": Kind.SECRET_KEY}, "kind differs"),
        ({"key": DIGEST}, "key differs"),
        ({"number": 3}, "after 1 comes 2"),
        ({"number": 1, "previous": ""}, "after 1 comes 2"),
        ({"previous": DIGEST}, "previous"),
        ({"stated_at": "2026-02-28T23:59:59Z"}, "earlier"),
        ({"envelope": DIGEST}, "another one under the same"),
    ],
)
def test_a_statement_that_does_not_continue_the_chain_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words):
        follows(first(), after(first(), **changes))


def test_two_statements_in_one_second_follow_each_other() -> None:
    follows(first(), after(first(), stated_at=first().stated_at))


ALLOWED = {
    ("live", "live"), ("live", "revoked"), ("live", "compromised"), ("live", "destroyed"), ("revoked", "revoked"),
    ("revoked", "compromised"), ("revoked", "destroyed"), ("compromised", "compromised"), ("compromised", "destroyed"),
    ("destroyed", "destroyed"),
}  # fmt: skip


@pytest.mark.parametrize("newer", RecordStanding)
@pytest.mark.parametrize("older", RecordStanding)
def test_the_standing_only_goes_down(older: RecordStanding, newer: RecordStanding) -> None:
    one = after(first(), **standing(older))
    two = after(one, **standing(newer))
    if older is RecordStanding.COMPROMISED and newer is RecordStanding.DESTROYED:
        two = replace(two, compromised_at=LATER)
    if (older, newer) in ALLOWED:
        follows(one, two)
        return
    with pytest.raises(EnvelopeInvalid, match="standing does not go"):
        follows(one, two)


def standing(name: RecordStanding) -> dict[str, Any]:
    return {
        "standing": name,
        "compromised_at": LATER if name is RecordStanding.COMPROMISED else "",
        "envelope": "" if name is RecordStanding.DESTROYED else first().envelope,
    }


def test_that_a_key_is_compromised_is_not_taken_back() -> None:
    one = after(first(), **COMPROMISED)
    follows(one, after(one, compromised_at="2026-01-01T00:00:00Z"))
    follows(one, after(one, **DESTROYED))
    for gone in ("", "2026-03-02T12:00:01Z"):
        with pytest.raises(EnvelopeInvalid, match="taken back"):
            follows(one, after(one, **DESTROYED | {"compromised_at": gone}))


# --- a statement and its envelope ---


@pytest.mark.parametrize(("suite", "of"), SUITES)
def test_an_envelope_goes_with_its_statement(suite: Suite, of: WrappingSuite) -> None:
    encoded, statement = deposit(suite, of)
    envelope = check_envelope(statement, encoded, owner(of).statement)
    assert open_envelope(envelope, owner(of).wrapping) == contents()["P-256"]


@pytest.mark.parametrize(("suite", "of"), SUITES)
def test_so_does_one_with_a_symmetric_key(suite: Suite, of: WrappingSuite) -> None:
    secret = bytes(range(32))
    about = deposit_about(OWNER, RECORD, 1)
    encoded = seal_secret_key(secret, owner(of).wrapping.public_key(), suite, about).encode()
    statement = replace(
        deposit(suite, of)[1],
        kind=Kind.SECRET_KEY,
        key=key_check(secret),
        envelope=sha256(encoded).hexdigest(),
    )
    envelope = check_envelope(statement, encoded, owner(of).statement)
    assert key_check(open_envelope(envelope, owner(of).wrapping)) == statement.key


def test_every_single_byte_change_of_an_envelope_is_refused() -> None:
    encoded, statement = deposit(Suite.HPKE_P256, WrappingSuite.P256)
    for altered in (*single_byte_changes(encoded), *cuts_and_extensions(encoded)):
        with pytest.raises(EnvelopeInvalid, match="SHA-256"):
            check_envelope(statement, altered, owner().statement)


def stating(encoded: bytes, **changes: Any) -> RecordStatement:
    """A statement about another envelope than it should be about; the owner has signed it all the same."""
    return first(envelope=sha256(encoded).hexdigest(), **changes)


def test_an_envelope_of_another_record_is_refused() -> None:
    """Blobs that were swapped between rows, with a statement that names the wrong one."""
    for about in (
        deposit_about("bert", RECORD, 1),
        deposit_about(OWNER, "mail", 1),
        deposit_about(OWNER, RECORD, 2),
        {"owner": OWNER, "record": RECORD, "version": 1},
        {**deposit_about(OWNER, RECORD, 1), "more": True},
        challenge_about(bytes(32)),
        {},
    ):
        encoded = seal_private_key(
            contents()["P-256"], owner().wrapping.public_key(), Suite.HPKE_P256, about
        ).encode()
        with pytest.raises(EnvelopeInvalid, match="about in its header"):
            check_envelope(stating(encoded), encoded, owner().statement)


def test_an_envelope_of_another_key_kind_suite_or_recipient_is_refused() -> None:
    about = deposit_about(OWNER, RECORD, 1)
    to = owner().wrapping.public_key()
    other_key = seal_private_key(contents()["Ed25519"], to, Suite.HPKE_P256, about).encode()
    other_kind = seal_secret_key(bytes(32), to, Suite.HPKE_P256, about).encode()
    stranger = seal_private_key(
        contents()["P-256"], owner(number=2).wrapping.public_key(), Suite.HPKE_P256, about
    ).encode()
    for encoded, words in ((other_key, "spki"), (other_kind, "kind"), (stranger, "recipient")):
        with pytest.raises(EnvelopeInvalid, match=words):
            check_envelope(stating(encoded), encoded, owner().statement)
    encoded, statement = deposit(Suite.HPKE_P256, WrappingSuite.P256)
    with pytest.raises(EnvelopeInvalid, match="suite in its header"):
        check_envelope(replace(statement, suite=Suite.HPKE_X25519), encoded, owner().statement)


def test_a_statement_about_another_management_key_is_refused() -> None:
    encoded, statement = deposit(Suite.HPKE_P256, WrappingSuite.P256)
    with pytest.raises(EnvelopeInvalid, match="management"):
        check_envelope(statement, encoded, owner(number=2).statement)
    other = replace(owner().statement, owner="bert")
    with pytest.raises(EnvelopeInvalid, match="owner"):
        check_envelope(replace(statement, management=other.digest.hex()), encoded, other)


def test_the_size_of_an_envelope_is_bounded() -> None:
    encoded = bytes(MAX_ENVELOPE_BYTES + 1)
    with pytest.raises(EnvelopeInvalid):
        check_envelope(stating(encoded), encoded, owner().statement)


def test_what_is_no_envelope_is_refused() -> None:
    for encoded in (b"", b"\0", Envelope.decode(deposit(Suite.HPKE_P256, WrappingSuite.P256)[0]).body):
        with pytest.raises(EnvelopeInvalid):
            check_envelope(stating(encoded), encoded, owner().statement)
