"""Statements as signed notes: each way in which one is not what it claims to be has an error of its own."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from hsmd.errors import BadRequest, ProtocolError
from hsmd.purposes.statement import KINDS
from hsmd.transparency import statement as statements
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.note import Note, Verifier, signed, to_be_signed
from hsmd.transparency.statement import (
    AlteredStatement,
    MalformedStatement,
    OtherStatement,
    Statement,
    UnknownStatementKey,
    signer_of,
    verify,
)

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RECEIPT = Statement("deposit-receipt", "fra-1", ("key 00ff", "owner J\u00fcrgen"))


def verifier(key=KEY, daemon: str = "fra-1") -> Verifier:
    return Verifier.from_public_key(signer_of(daemon), key.public_key())


def note_of(text: str, key=KEY, daemon: str = "fra-1") -> Note:
    data = to_be_signed(text)
    made = key.sign(data) if isinstance(key, Ed25519PrivateKey) else key.sign(data, ec.ECDSA(hashes.SHA256()))
    return signed(text, verifier(key, daemon), [made])


GOOD = note_of(RECEIPT.text()).render()


@pytest.mark.parametrize("key", [KEY, EC_KEY], ids=["ed25519", "p-256"])
def test_a_statement_is_what_was_stated(key) -> None:
    note = note_of(RECEIPT.text(), key).render()
    assert verify(note, [verifier(OTHER), verifier(key)]) == RECEIPT
    assert verify(note, [verifier(key)], "deposit-receipt") == RECEIPT


def test_an_altered_statement_is_refused() -> None:
    for before, after in (("00ff", "00fe"), ("deposit-receipt", "vault-answer"), ("fra-1\n", "lon-1\n")):
        with pytest.raises(AlteredStatement, match="altered after it was signed"):
            verify(GOOD.replace(before, after, 1), [verifier()])
    with pytest.raises(AlteredStatement):
        verify(GOOD.replace("\n\n", "\nmore\n\n"), [verifier()])


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("aB0+/= \n\u2014"))
def test_every_changed_character_is_noticed(at: int, character: str) -> None:
    changed = GOOD[:at] + character + GOOD[at + 1 :]
    if changed != GOOD:
        with pytest.raises((AlteredStatement, MalformedStatement, UnknownStatementKey)):
            verify(changed, [verifier()])


def test_a_statement_of_another_kind_is_refused() -> None:
    with pytest.raises(OtherStatement, match="of the kind deposit-receipt, not vault-answer"):
        verify(GOOD, [verifier()], "vault-answer")


@pytest.mark.parametrize(
    "keys", [[], [verifier(OTHER)], [verifier(daemon="lon-1")], [verifier(EC_KEY)]], ids=len
)
def test_a_statement_of_an_unknown_key_is_refused(keys: list[Verifier]) -> None:
    with pytest.raises(UnknownStatementKey, match="none of the keys given"):
        verify(GOOD, keys)


def test_a_forged_key_id_does_not_make_a_key_known() -> None:
    forged = note_of(RECEIPT.text(), OTHER)
    claimed = signed(RECEIPT.text(), verifier(), [forged.signatures[0].signature])
    with pytest.raises(AlteredStatement):
        verify(claimed, [verifier()])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "x",
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("hsmd.statement/v1", "hsmd.statement/v2"),
        GOOD + "\0",
        note_of(Checkpoint("hsmd/fra-1", 1, bytes(32)).text()).render(),
        note_of("hsmd.statement/v1 unknown-kind\ndaemon fra-1\n").render(),
        note_of("hsmd.statement/v1 vault-answer\nnot a daemon\n").render(),
        note_of("hsmd.statement/v1 vault-answer\ndaemon fra-1\na\n\nb\n").render(),
    ],
)
def test_what_is_no_statement_is_refused(note: str) -> None:
    with pytest.raises(MalformedStatement, match="not a s"):
        verify(note, [verifier()])


def test_a_daemon_cannot_state_in_the_name_of_another() -> None:
    for key in (KEY, EC_KEY):  # the key id of an ECDSA key does not cover the name
        note = note_of(RECEIPT.text(), key, daemon="lon-1")
        with pytest.raises(
            AlteredStatement, match=r"signed by hsmd.statement/lon-1, but names the daemon fra-1"
        ):
            verify(note, [verifier(key, "lon-1"), verifier(key)])


def test_further_signatures_do_no_harm() -> None:
    witness = Verifier.from_public_key("witness.example", OTHER.public_key())
    note = Note.parse(GOOD)
    seen = signed(note.text, witness, [OTHER.sign(to_be_signed(note.text))])
    assert verify(Note(note.text, (*seen.signatures, *note.signatures)), [verifier()]) == RECEIPT


def test_a_statement_signed_by_two_keys_needs_both_signatures_that_are_known() -> None:
    wrong = signed(RECEIPT.text(), verifier(OTHER), [bytes(64)])
    both = Note(RECEIPT.text(), (*Note.parse(GOOD).signatures, *wrong.signatures))
    assert verify(both, [verifier()]) == RECEIPT
    with pytest.raises(AlteredStatement):
        verify(both, [verifier(), verifier(OTHER)])


@pytest.mark.parametrize(
    ("kind", "daemon", "lines"),
    [
        ("checkpoint", "fra-1", ()),
        ("vault-answer", "", ()),
        ("vault-answer", "a b", ()),
        ("vault-answer", "fra-1", ("",)),
        ("vault-answer", "fra-1", ("a\nb",)),
        ("vault-answer", "fra-1", ("a\tb",)),
        ("vault-answer", "fra-1", ("\ud800",)),
        ("vault-answer", "fra-1", ("x" * 5_000,)),
    ],
)
def test_what_cannot_be_stated_is_refused(kind: str, daemon: str, lines: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"statement|lines"):
        Statement(kind, daemon, lines)


@given(st.sampled_from(sorted(KINDS)), st.lists(st.text(max_size=40), max_size=4))
def test_every_statement_survives_its_note(kind: str, lines: list[str]) -> None:
    try:
        stated = Statement(kind, "fra-1", tuple(lines))
    except BadRequest:
        return
    assert verify(note_of(stated.text()).render(), [verifier()], kind) == stated


def test_a_kind_is_checked() -> None:
    for kind in KINDS:
        statements.check_kind(kind)
    with pytest.raises(BadRequest, match="none of deposit-receipt"):
        statements.check_kind("receipt")
    assert issubclass(MalformedStatement, ProtocolError)
