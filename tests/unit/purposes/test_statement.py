"""The purpose `statement`: a text whose first line names a known kind, which can be nothing else that any key signs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from hsmd.algorithms import KeyType, SignatureScheme, schemes_for
from hsmd.errors import PurposeMismatch
from hsmd.purposes import Purpose, PurposeCheck
from hsmd.purposes.asn1 import could_be_signed_structure
from hsmd.purposes.check import NOTE_SCHEMES
from hsmd.purposes.checkpoint import check_checkpoint
from hsmd.purposes.statement import KINDS, MAX_BYTES, MAX_LINE_BYTES, check_statement
from hsmd.transparency.checkpoint import Checkpoint, origin_of
from hsmd.transparency.discontinuity import Discontinuity, State, parse_text as parse_discontinuity
from hsmd.transparency.note import Verifier

GOOD = b"hsmd.statement/v1 deposit-receipt\ndaemon fra-1\nkey 00ff\nowner J\xc3\xbcrgen\n"
CHECKPOINT = Checkpoint("hsmd/fra-1", 42, bytes(range(32))).text().encode()
CORPORA = Path(__file__).resolve().parents[2] / "vectors" / "purposes"
LINES = st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=80))


def passes(data: bytes) -> bool:
    try:
        check_statement(data)
    except PurposeMismatch:
        return False
    return True


def is_checkpoint(data: bytes) -> bool:
    try:
        check_checkpoint(data)
    except PurposeMismatch:
        return False
    return True


def statement(kind: str, daemon: str, lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in [f"hsmd.statement/v1 {kind}", f"daemon {daemon}", *lines]).encode()


@given(st.sampled_from(sorted(KINDS)), st.from_regex(r"[a-zA-Z0-9._-]{1,64}", fullmatch=True), LINES)
def test_every_statement_passes_and_is_no_other_format(kind: str, daemon: str, lines: list[str]) -> None:
    data = statement(kind, daemon, lines)
    check_statement(data)
    assert not is_checkpoint(data)
    assert not could_be_signed_structure(data)
    passing = {purpose for purpose in Purpose if passes_as(purpose, data)}
    # Keys that sign arbitrary messages or digests have no statements in their ceilings.
    assert passing - {Purpose.SIGN_DIGEST} == {Purpose.STATEMENT, Purpose.SIGN_MESSAGE}


def passes_as(purpose: Purpose, data: bytes) -> bool:
    check = PurposeCheck(KeyType.P256, b"\x30\x00")
    for scheme in (0, *schemes_for(KeyType.P256)):
        try:
            check.check(purpose, scheme, data)
        except PurposeMismatch:
            continue
        return True
    return False


@given(st.from_regex(r"[a-zA-Z0-9._-]{1,64}", fullmatch=True), st.integers(0, 10**15))
def test_no_checkpoint_is_a_statement(name: str, size: int) -> None:
    data = Checkpoint(origin_of(name), size, bytes(32)).text().encode()
    assert is_checkpoint(data)
    assert not passes(data)


def test_no_declaration_of_a_discontinuity_is_a_statement_nor_the_reverse() -> None:
    key = Verifier.from_public_key("hsmd/fra-1", Ed25519PrivateKey.generate().public_key()).vkey
    declared = Discontinuity(
        "hsmd/fra-1", None, State(1, bytes(32)), key, "2026-01-02T03:04:05.000006Z", "restored"
    )
    assert not passes(declared.text().encode())
    with pytest.raises(Exception, match="discontinuity"):
        parse_discontinuity(GOOD.decode())


def test_no_entry_of_the_corpora_is_a_statement() -> None:
    entries = [
        base64.b64decode(entry["data"]) for entry in json.loads((CORPORA / "hostile.json").read_text())
    ]
    entries += [
        base64.b64decode(e["data"]) for e in json.loads((CORPORA / "valid.json").read_text())["records"]
    ]
    assert len(entries) > 600
    assert not any(passes(data) for data in entries)
    assert not passes(b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + GOOD)
    assert not passes(b"SSHSIG" + GOOD)
    assert passes(GOOD), "a statement passes"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "first line"),
        (CHECKPOINT, "first line"),
        (GOOD.replace(b"v1", b"v2"), "first line"),
        (GOOD.replace(b"hsmd.", b"Hsmd."), "first line"),
        (b"\n" + GOOD, "first line"),
        (b" " * 64 + GOOD, "first line"),
        (GOOD.replace(b"deposit-receipt", b"deposit--receipt"), "first line"),
        (GOOD.replace(b"deposit-receipt", b""), "first line"),
        (GOOD.replace(b"deposit-receipt", b"deposit"), "'deposit' is not a kind; kinds are deposit-receipt"),
        (GOOD.replace(b"deposit-receipt", b"checkpoint"), "not a kind"),
        (GOOD.replace(b"daemon fra-1\n", b""), "daemon NAME"),
        (GOOD.replace(b"fra-1", b""), "daemon NAME"),
        (GOOD.replace(b"fra-1", b"a b"), "daemon NAME"),
        (GOOD.replace(b"fra-1", b"hsmd/fra-1"), "daemon NAME"),
        (GOOD[:-1], "line feed"),
        (GOOD + b"\n", "lines of 1"),
        (GOOD + b"\n\xe2\x80\x94 hsmd/operator AAAAAAAA\n", "lines of 1"),
        (GOOD.replace(b"\n", b"\r\n"), "first line"),
        (GOOD + b"a\tb\n", "control characters"),
        (GOOD + b"a\0b\n", "control characters"),
        (GOOD + b"a\x7fb\n", "control characters"),
        (GOOD + b"a\xffb\n", "UTF-8"),
        (GOOD + b"a\xed\xa0\x80b\n", "UTF-8"),
        (GOOD + b"a\xc2\x85b\n", "controls others"),
        (GOOD + "a\u2028b\n".encode(), "controls others"),
        (GOOD + "a\u202eb\n".encode(), "controls others"),
        (GOOD + b"x" * (MAX_LINE_BYTES + 1) + b"\n", "1 to 4096 bytes"),
        (GOOD + b"x\n" * (MAX_BYTES // 2), "more than 32768 bytes"),
    ],
)
def test_near_misses_are_refused_with_the_reason(data: bytes, fault: str) -> None:
    with pytest.raises(PurposeMismatch, match=fault):
        check_statement(data)


def test_the_longest_statement_passes() -> None:
    check_statement(GOOD + b"x" * MAX_LINE_BYTES + b"\n")
    check_statement(GOOD + b"x\n" * ((MAX_BYTES - len(GOOD)) // 2))


@pytest.mark.parametrize(
    ("key_type", "of_notes"),
    [
        (KeyType.P256, {SignatureScheme.ECDSA_SHA256}),
        (KeyType.ED25519, {SignatureScheme.ED25519}),
        (KeyType.RSA_2048, set()),
    ],
)
def test_only_schemes_of_signed_notes_sign_statements(key_type: KeyType, of_notes: set[int]) -> None:
    check = PurposeCheck(key_type, b"")
    accepted = set()
    for scheme in range(0x10000):
        try:
            check.check(Purpose.STATEMENT, scheme, GOOD)
        except PurposeMismatch:
            continue
        accepted.add(scheme)
    assert accepted == of_notes


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.ED25519])
@pytest.mark.parametrize("purpose", [Purpose.STATEMENT, Purpose.CHECKPOINT])
def test_a_key_for_notes_of_the_daemon_signs_nothing_else(key_type: KeyType, purpose: Purpose) -> None:
    """What the worker asks before each signature, not only the rule behind it."""
    texts = {
        Purpose.STATEMENT: GOOD,
        Purpose.CHECKPOINT: Checkpoint(origin_of("fra-1"), 7, bytes(32)).text().encode(),
        Purpose.TLS13_SERVER: b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"h" * 32,
        Purpose.SIGN_MESSAGE: b"x",
        Purpose.SIGN_DIGEST: bytes(32),
    }
    check = PurposeCheck(key_type, b"")
    (scheme,) = NOTE_SCHEMES & set(schemes_for(key_type))
    check.check(purpose, scheme, texts.pop(purpose))
    for other in texts.values():
        with pytest.raises(PurposeMismatch):
            check.check(purpose, scheme, other)
