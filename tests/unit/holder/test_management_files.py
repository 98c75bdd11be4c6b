"""Files of management keys: what is written opens again with the passphrase, and what was altered does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmd.envelopes import header
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.envelopes.vault.signing import Kind
from hsmd.errors import BadRequest, EnvelopeInvalid, NotFound
from hsmd.holder import management_files
from hsmd.holder.file_encryption import PassphraseRefused
from hsmd.holder.management_files import InToken, KeyFile
from hsmd.holder.management_keys import Pair, Place, SoftwareManagementKey, generate_pair, state
from tests.support.envelopes import contents, rsa_key
from tests.support.holder import CHEAP, NOW, management_key, pair

WORD = b"correct horse"
ABOUT = {"purpose": "vault-deposit", "owner": "anna", "record": "www", "version": 1}


def written(path: Path, key: SoftwareManagementKey) -> Path:
    management_files.write_new(path, management_files.encrypted(key, WORD, CHEAP))
    return path


@pytest.mark.parametrize("suite", list(WrappingSuite))
def test_a_file_opens_again_and_so_does_what_is_sealed_to_its_key(
    suite: WrappingSuite, tmp_path: Path
) -> None:
    key = management_key(suite)
    path = written(tmp_path / "management-key", key)
    assert path.stat().st_mode & 0o777 == 0o600
    file, statement = management_files.read(path)
    assert statement == key.statement and statement.suite is suite
    again = management_files.open_key(file, WORD)
    assert again.suite in suite.suites
    sealed = key.seal_private_key(contents()["P-256"], ABOUT)
    assert again.open(sealed) == contents()["P-256"]
    assert again.open(key.seal_secret_key(bytes(range(32)), ABOUT)) == bytes(range(32))
    statement.signing_key.verify(Kind.RECORD, b"text", again.sign(Kind.RECORD, b"text"))


def test_private_halves_are_in_no_file_in_clear_and_in_no_repr(tmp_path: Path) -> None:
    key = management_key(WrappingSuite.SYMMETRIC)
    secret = key.pair.wrapping.key  # type: ignore[union-attr]
    content = written(tmp_path / "key", key).read_bytes()
    assert secret not in content and msgspec.json.encode(secret)[1:-1] not in content
    for shown in (repr(key), repr(key.pair), repr(vars(key)), str(vars(key))):
        assert repr(secret) not in shown and secret.hex() not in shown


def test_a_wrong_passphrase_is_refused(tmp_path: Path) -> None:
    file, _ = management_files.read(written(tmp_path / "key", management_key()))
    with pytest.raises(PassphraseRefused, match="use the backup of the key"):
        management_files.open_key(file, b"wrong")


def test_a_missing_file_names_the_backup(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=r"no management key in .*; make one with `hsmd vault keygen`, or name the backup"
    ):
        management_files.read(tmp_path / "key")


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "key", management_key())
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        written(path, management_key())
    assert path.read_bytes() == before


def test_altered_files_are_refused(tmp_path: Path) -> None:
    content = written(tmp_path / "key", management_key()).read_bytes()
    statement = content.index(b"stated_at")
    for altered in (
        b"", b"{}", content[:-30], content.replace(b"2030-", b"2031-"), content.replace(b'"suite"', b'"suit"'),
        content.replace(b"x25519", b"p256"), content.replace(b"/1", b"/2", 1), b" " * 70_000,
        content[:statement] + b"x" + content[statement + 1 :],
    ):  # fmt: skip
        path = tmp_path / "altered"
        path.write_bytes(altered)
        with pytest.raises((BadRequest, OSError)):
            management_files.read(path)


def test_another_owner_in_the_statement_is_refused(tmp_path: Path) -> None:
    """The statement is in clear text and signed: another name in it does not pass."""
    content = written(tmp_path / "key", management_key()).read_text()
    (tmp_path / "other").write_text(content.replace("anna", "bert"))
    with pytest.raises(BadRequest, match="it was altered; use the backup"):
        management_files.read(tmp_path / "other")


def test_private_halves_of_another_key_are_refused() -> None:
    mine, other = (
        management_files.encrypted(management_key(number=number), WORD, CHEAP) for number in (1, 2)
    )
    mixed = msgspec.structs.replace(mine, encrypted=other.encrypted)
    with pytest.raises(BadRequest, match="not those of the statement"):
        management_files.open_key(mixed, WORD)


def test_a_file_has_private_halves_or_a_token(tmp_path: Path) -> None:
    key = management_key()
    token = InToken("/home/anna/owner.toml", "00", "01")
    file = management_files.in_token(key.signed, key.suite, token)
    management_files.write_new(tmp_path / "token", file)
    assert management_files.read(tmp_path / "token")[0].token == token
    for wrong in (
        msgspec.structs.replace(file, token=None),
        msgspec.structs.replace(file, encrypted=management_files.encrypted(key, WORD, CHEAP).encrypted),
    ):
        (tmp_path / "wrong").write_bytes(msgspec.json.encode(wrong))
        with pytest.raises(BadRequest):
            management_files.read(tmp_path / "wrong")


def test_a_key_that_was_brought_is_stated(tmp_path: Path) -> None:
    made = state(Pair(generate_pair(WrappingSuite.X25519).signing, rsa_key(5, 3072)), Place("anna"), NOW)
    assert (made.statement.suite, made.suite) == (WrappingSuite.RSA, header.Suite.RSA_OAEP_SHA256_KWP)


@pytest.mark.parametrize(
    ("wrapping", "words"),
    [
        (rsa.generate_private_key(65537, 2048), "2048 bits is too short"),
        (ec.generate_private_key(ec.SECP384R1()), "wraps with"),
    ],
)
def test_keys_that_cannot_wrap_are_named(wrapping: object, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        state(Pair(generate_pair(WrappingSuite.X25519).signing, wrapping), Place("anna"), NOW)  # type: ignore[arg-type]


def test_one_key_never_does_both() -> None:
    both = rsa_key(5, 3072)
    with pytest.raises(EnvelopeInvalid, match="one of the two uses"):
        state(Pair(both, both), Place("anna"), NOW)


def test_a_replacement_carries_the_succession_of_the_key_before() -> None:
    first, second = management_key(number=1), management_key(number=2)
    assert second.signed.verify_succession(first.statement).number == 2
    assert second.statement.previous == first.statement.digest.hex()
    with pytest.raises(EnvelopeInvalid):
        state(pair(WrappingSuite.X25519), Place.behind(first.statement), NOW, replaces=first)


def test_the_form_of_the_file_is_documented() -> None:
    """docs/vault.md lists these members."""
    assert [field.name for field in msgspec.structs.fields(KeyFile)] == [
        "format", "statement", "signature", "succession", "suite", "encrypted", "token",
    ]  # fmt: skip
