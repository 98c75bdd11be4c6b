"""Management keys in a SoftHSM of the owner's, against a vault in memory: deposits, acquisitions, and the second copy."""

from __future__ import annotations

import pytest

from tests.support.owner_token import OwnerToken

PRELUDE = """
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import HsmdError
from hsmd.holder import acquisitions, deposits, management_files, management_token
from hsmd.holder.brought_keys import of_private_key
from hsmd.holder.deposits import PrivateKeyInMemory, SecretInMemory, Terms
from hsmd.holder.management_keys import Place, generate_pair, state
from hsmd.holder.proving import Prover, prove_wrapping
from hsmd.holder.seen import Seen
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file
from hsmd.protocol.messages.vault_keys import VaultConfirm, VaultRegister
from tests.support.fake_vault import FakeVault
from tests.support.holder import NOW

token = open_token(read_token_file(Path("owner.toml"), read_write=True))
vault, seen = FakeVault(), Seen(Path("seen"))
def show(value): print(json.dumps(value))
def registered(key):
    request = VaultRegister(key.signed.text, key.signed.signature)
    request.wrapping_proof = prove_wrapping(vault, key, request)
    vault.control(request)
    vault.control(VaultConfirm("anna", key.statement.fingerprint))
    return Prover(vault, key)
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> OwnerToken:
    return OwnerToken(tmp_path_factory.mktemp("management"))


@pytest.mark.parametrize("suite", ["rsa", "p256"])
def test_a_key_of_the_token_registers_deposits_and_acquires(owner: OwnerToken, suite: str) -> None:
    found = owner.run(
        PRELUDE
        + f"""
key, where = management_token.generate(token, "owner.toml", WrappingSuite("{suite}"), Place("anna"), NOW)
management_files.write_new(Path("key-{suite}"), management_files.in_token(key.signed, key.suite, where))
prover, opened = registered(key), Prover(vault, key, opened=True)
results = []
for number, content in enumerate([
    PrivateKeyInMemory(of_private_key(ec.generate_private_key(ec.SECP256R1()))),
    PrivateKeyInMemory(of_private_key(ed25519.Ed25519PrivateKey.generate())),
    SecretInMemory(bytes(range(32))),
]):
    for each in (prover, opened):
        deposits.put(each, seen, content, f"{suite}-{{number}}", Terms(), NOW)
    results.append(content.is_in(acquisitions.get(opened, seen, f"{suite}-{{number}}").open(key)))
file, statement = management_files.read(Path("key-{suite}"))
again = management_token.TokenManagementKey(file.signed, file.envelope_suite, file.token, token)
results.append(content.is_in(acquisitions.get(Prover(vault, again), seen, f"{suite}-2").open(again)))
show([results, key.suite])
"""
    )
    suites = {"rsa": "rsa-oaep-sha1-aes256-kwp", "p256": "hpke-p256-sha256-aes256gcm"}
    assert found == [[True] * 4, suites[suite]]


def test_an_acquisition_goes_into_the_token_without_the_key_in_memory(owner: OwnerToken) -> None:
    """The one process that could have it never loads a private key: everything that makes objects of them is cut off."""
    found = owner.run(
        PRELUDE
        + """
key, where = management_token.generate(token, "owner.toml", WrappingSuite.RSA, Place("anna"), NOW)
prover = registered(key)
private = of_private_key(ec.generate_private_key(ec.SECP256R1()))
deposits.put(prover, seen, PrivateKeyInMemory(private), "kept", Terms(), NOW)
half = PublicHalf.from_spki(private.spki)
got = acquisitions.get(prover, seen, "kept")
from hsmd.envelopes import content as contents, rsa_aes_kwp
def cut(*_): raise AssertionError("the key came into memory")
contents.unsealed = rsa_aes_kwp.kwp_unwrap = cut
first = key.keep_in_token(got.envelope, half, "kept-key")
from hsmd.pkcs11 import own_keys
kept = own_keys.private_key(token.session, first, half)
signature = own_keys.sign(kept, half, b"text")
from cryptography.hazmat.primitives import hashes
half.public_key.verify(signature, b"text", ec.ECDSA(hashes.SHA256()))
try:
    got.open(key)
    control = "opened"
except AssertionError as error:
    control = str(error)
show([len(first), control])
"""
    )
    assert found == [16, "the key came into memory"]


@pytest.mark.parametrize("suite", ["rsa", "p256"])
def test_a_second_copy_in_a_token_opens_what_the_first_did(owner: OwnerToken, suite: str) -> None:
    found = owner.run(
        PRELUDE
        + f"""
pair = generate_pair(WrappingSuite("{suite}"), for_tokens=True)
key = state(pair, Place("anna"), NOW, suite=management_token.suite_of(token, WrappingSuite("{suite}")))
where = management_token.store(token, "owner.toml", key)
copy = management_token.TokenManagementKey(key.signed, key.suite, where, token)
prover = registered(key)
content = SecretInMemory(bytes(range(32)))
deposits.put(prover, seen, content, "copied-{suite}", Terms(), NOW)
show(content.is_in(acquisitions.get(Prover(vault, copy), seen, "copied-{suite}").open(copy)))
"""
    )
    assert found is True


def test_nothing_is_left_in_the_token_if_it_fails(owner: OwnerToken) -> None:
    left = owner.run(
        PRELUDE
        + """
from pkcs11 import Attribute
def count(): return len(list(token.session.get_objects({Attribute.LABEL: management_token.LABEL})))
before, said = count(), []
from hsmd.pkcs11 import own_keys
real = own_keys.generate_signing_key
def fail(*_): raise HsmdError("failed")
own_keys.generate_signing_key = fail
try:
    management_token.generate(token, "owner.toml", WrappingSuite.P256, Place("anna"), NOW)
except HsmdError as error:
    said.append(error.text)
try:
    management_token.generate(token, "owner.toml", WrappingSuite.HYBRID, Place("anna"), NOW)
except HsmdError as error:
    said.append(error.text)
show([count() - before, said])
"""
    )
    assert left == [
        0,
        ["failed", "a management key in a token is of the suite rsa or p256, not hybrid; choose one of them"],
    ]


def test_a_token_without_the_key_is_told(owner: OwnerToken) -> None:
    said = owner.run(
        PRELUDE
        + """
key = state(generate_pair(WrappingSuite.P256, for_tokens=True), Place("anna"), NOW)
place = management_files.InToken("owner.toml", "aa" * 16, "bb" * 16)
try:
    management_token.TokenManagementKey(key.signed, key.suite, place, token)
except HsmdError as error:
    show(error.text)
"""
    )
    assert "no private key with the CKA_ID aaaa" in said and "use the backup" in said
