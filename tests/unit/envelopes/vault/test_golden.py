"""Statements and envelopes are stored for years, and clients are written by others: what one release reads, all later ones do.

The values of tests/vectors/vault/golden.json; docs/vault-formats.md describes them.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.recipients import PrivateKey
from hsmd.envelopes.sealing import open_envelope
from hsmd.envelopes.vault import proofs
from hsmd.envelopes.vault.answers import Answer, Verdict
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, SignedManagementKey, WrappingSuite
from hsmd.envelopes.vault.proofs import Proof, ProofContext, ProofKind
from hsmd.envelopes.vault.records import (
    RecordStanding,
    RecordStatement,
    SignedStatement,
    check_envelope,
    follows,
)
from hsmd.envelopes.vault.symmetric import key_check
from hsmd.errors import ProofInvalid
from tests.support.envelopes import stored_key
from tests.support.vault_formats import spki
from tests.support.vectors import vectors

GOLDEN = vectors("vault/golden.json")
KEYS, RECORDS, PROOF = GOLDEN["management_keys"], GOLDEN["records"], GOLDEN["proof"]
NONCE = bytes(range(32))


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def signed(number: int) -> SignedManagementKey:
    each = KEYS[number]
    return SignedManagementKey(each["text"].encode(), raw(each["signature"]), raw(each.get("succession", "")))


@cache
def management_key(number: int) -> tuple[ManagementKeyStatement, PrivateKey]:
    return signed(number).verify_own(), stored_key(KEYS[number]["wrapping_key"])


def test_there_is_one_of_everything() -> None:
    assert {management_key(number)[0].suite for number in range(len(KEYS))} == set(WrappingSuite)
    statements = [RecordStatement.decode(each["text"].encode()) for each in RECORDS]
    assert {each.suite for each in statements} == set(Suite)
    assert {each.kind for each in statements} == set(Kind)
    assert {each.standing for each in statements} == set(RecordStanding)
    assert [Answer.from_lines(lines).verdict for lines in GOLDEN["answers"]] == list(Verdict)


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_management_keys(number: int) -> None:
    statement, wrapping = management_key(number)
    assert statement.encode().decode() == KEYS[number]["text"]
    assert statement.fingerprint == KEYS[number]["fingerprint"]
    key = load_der_private_key(raw(KEYS[number]["signing_key"]), None)
    assert spki(key.public_key()) == statement.signing
    assert wrapping is not None


def test_the_last_one_replaces_the_first() -> None:
    assert signed(-1).verify_succession(management_key(0)[0]).number == 2
    with pytest.raises(ProofInvalid):
        SignedManagementKey(signed(-1).text, signed(-1).signature).verify_succession(management_key(0)[0])


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_records(number: int) -> None:
    each = RECORDS[number]
    management, wrapping = management_key(each["management_key"])
    statement = SignedStatement(each["text"].encode(), raw(each["signature"])).verify(management.signing_key)
    assert statement.encode().decode() == each["text"]
    if "envelope" not in each:
        return
    content = open_envelope(check_envelope(statement, raw(each["envelope"]), management), wrapping)
    if statement.kind is Kind.PRIVATE_KEY:
        assert content == raw(GOLDEN["transaction_key"])
    else:
        assert content == raw(GOLDEN["secret_key"])
        assert statement.key == key_check(content)


def test_the_chain_of_a_record() -> None:
    chain = [RecordStatement.decode(each["text"].encode()) for each in RECORDS if '"backup"' in each["text"]]
    assert [each.number for each in chain] == [1, 2, 3, 4, 5]
    for older, newer in pairwise(chain):
        follows(older, newer)


def test_proofs() -> None:
    digest = proofs.request_digest(PROOF["request"])
    context = ProofContext("fra-1", raw(PROOF["binding"]), "anna", "vault.get", "web", 1, digest, NONCE)
    assert context.text().decode() == PROOF["text"]
    for each in PROOF["signatures"]:
        key = management_key(each["management_key"])[0].signing_key
        proofs.verify_signature(Proof(ProofKind.SIGNATURE, raw(each["value"])), context, key)
    for each in PROOF["challenges"]:
        wrapping = management_key(each["management_key"])[1]
        assert proofs.open_challenge(raw(each["envelope"]), NONCE, wrapping) == raw(PROOF["secret"])
    proofs.verify_opened(Proof(ProofKind.OPENED, raw(PROOF["opened"])), context, raw(PROOF["secret"]))


@pytest.mark.parametrize("each", GOLDEN["possession"], ids=lambda each: each["kind"])
def test_possession(each: dict[str, Any]) -> None:
    key = load_der_private_key(raw(each["key"]), None)
    der = spki(key.public_key())
    text = proofs.possession_text(
        "fra-1", raw(PROOF["binding"]), "anna", "web", 1, sha256(der).hexdigest(), NONCE
    )
    assert text.decode() == each["text"]
    assert {"signature", "opened"} & set(each)
    if "signature" in each:
        proofs.verify_possession(Proof(ProofKind.SIGNATURE, raw(each["signature"])), text, der)
    if "opened" in each:
        assert not isinstance(key, ed25519.Ed25519PrivateKey)
        assert isinstance(key, PrivateKey)
        secret = proofs.open_possession(raw(each["envelope"]), NONCE, key)
        assert secret == raw(PROOF["secret"])
        proofs.verify_possession(Proof(ProofKind.OPENED, raw(each["opened"])), text, der, secret)


def test_answers_and_the_confirmation() -> None:
    for lines in GOLDEN["answers"]:
        assert list(Answer.from_lines(lines).lines()) == lines
    confirmation = Confirmation.from_lines(GOLDEN["confirmation"])
    assert list(confirmation.lines()) == GOLDEN["confirmation"]
    assert confirmation.management_key == management_key(0)[0].digest.hex()


def test_a_stranger_verifies_with_the_document_alone() -> None:
    """No code of ours: what docs/vault-formats.md says of the first record and the first proof."""
    statement = json.loads(KEYS[0]["text"])
    key = load_der_public_key(raw(statement["signing"]))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    record = RECORDS[0]
    for context, text, value in (
        (b"hsmd vault management-key v1\0", KEYS[0]["text"], KEYS[0]["signature"]),
        (b"hsmd vault record v1\0", record["text"], record["signature"]),
        (b"hsmd vault proof v1\0", PROOF["text"], PROOF["signatures"][0]["value"]),
    ):
        key.verify(raw(value), context + text.encode(), ec.ECDSA(hashes.SHA256()))
    members = json.loads(record["text"])
    assert members["envelope"] == sha256(raw(record["envelope"])).hexdigest()
    assert members["management"] == sha256(KEYS[0]["text"].encode()).hexdigest()
    request = json.dumps(PROOF["request"], sort_keys=True, separators=(",", ":")).encode()
    assert json.loads(PROOF["text"])["request"] == sha256(request).hexdigest()
