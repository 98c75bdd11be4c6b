"""Keys that other software wraps, and that it opens: `hsmd vault put --wrapped`, `hsmd vault get --bare`.

The other side is the `openssl` command, and primitives of `cryptography` put together by RFC 8017 and RFC 5649; nothing of hsmd.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)

from hsmd.cli.base import connection
from hsmd.envelopes.header import Suite
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.holder import file_encryption, management_files
from hsmd.holder.management_keys import Pair, Place, generate_pair, state
from hsmd.protocol.messages import VaultGet, VaultPut
from hsmd.system import process
from tests.support.cli import Ran, Run
from tests.support.fake_vault import FakeVault
from tests.support.holder import CHEAP, OWNER, management_key, pair
from tests.support.processes import program

WORD = b"correct horse"
HASHES: dict[str, type[hashes.HashAlgorithm]] = {"sha256": hashes.SHA256, "sha1": hashes.SHA1}
SUITES = {"sha256": Suite.RSA_OAEP_SHA256_KWP, "sha1": Suite.RSA_OAEP_SHA1_KWP}
KWP_IV = "A65959A6"
"""The alternative initial value of RFC 5649, section 3."""
Ask = Callable[..., Ran]


class OpenSsl:
    """The `openssl` command in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def run(self, *words: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            [program("openssl"), *words],
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    @staticmethod
    def _oaep(name: str) -> list[str]:
        return [
            "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{name}", "-pkeyopt", f"rsa_mgf1_md:{name}",
        ]  # fmt: skip

    def wrap(self, public: bytes, name: str, content: bytes) -> bytes:
        (self.directory / "public").write_bytes(public)
        aes = self.run("rand", "32")
        oaep = self.run("pkeyutl", "-encrypt", "-pubin", "-inkey", "public", *self._oaep(name), stdin=aes)
        return oaep + self._kwp("-e", aes, content)

    def unwrap(self, private: bytes, name: str, blob: bytes) -> bytes:
        (self.directory / "private").write_bytes(private)
        size = 3072 // 8
        aes = self.run("pkeyutl", "-decrypt", "-inkey", "private", *self._oaep(name), stdin=blob[:size])
        return self._kwp("-d", aes, blob[size:])

    def _kwp(self, direction: str, aes: bytes, content: bytes) -> bytes:
        """AES-KWP, which OpenSSL from 3.5 on does not apply to its standard input."""
        (self.directory / "in").write_bytes(content)
        given = ("-K", aes.hex(), "-iv", KWP_IV, "-in", "in")
        return self.run("enc", direction, "-id-aes256-wrap-pad", *given)


class Primitives:
    """The same with a library."""

    def __init__(self, directory: Path) -> None:
        pass

    @staticmethod
    def _oaep(name: str) -> padding.OAEP:
        return padding.OAEP(padding.MGF1(HASHES[name]()), HASHES[name](), None)

    def wrap(self, public: bytes, name: str, content: bytes) -> bytes:
        key = load_pem_public_key(public)
        assert isinstance(key, rsa.RSAPublicKey)
        aes = os.urandom(32)
        return key.encrypt(aes, self._oaep(name)) + aes_key_wrap_with_padding(aes, content)

    def unwrap(self, private: bytes, name: str, blob: bytes) -> bytes:
        key = load_der_private_key(private, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        size = key.key_size // 8
        return aes_key_unwrap_with_padding(key.decrypt(blob[:size], self._oaep(name)), blob[size:])


@pytest.fixture(params=[OpenSsl, Primitives])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> OpenSsl | Primitives:
    """Other software."""
    made: OpenSsl | Primitives = request.param(tmp_path / "other")
    return made


@pytest.fixture
def vault(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVault:
    """A vault in memory, and the profile of an owner."""
    directory = home / ".config" / "hsmd"
    directory.mkdir(parents=True)
    (directory / "operator.toml").write_text(
        'daemon = "192.0.2.1:7440"\nuser = "anna"\nidentity = "id"\nhost_keys = ["ssh-ed25519 AAAA"]\n'
    )
    monkeypatch.setattr(process, "harden", lambda: None)
    monkeypatch.setattr(file_encryption, "COST", CHEAP)
    made = FakeVault(now=datetime.now(UTC))
    monkeypatch.setattr(connection, "connect", lambda profile, witness=None: made)
    return made


@pytest.fixture
def ask(vault: FakeVault, run: Run, home: Path) -> Iterator[Ask]:
    """Runs `hsmd vault ...` with the passphrase of the management key, which is RSA; `hash_name`: of OAEP in what it seals."""
    opened: list[int] = []

    def asking(*words: str | Path, hash_name: str = "sha256") -> Ran:
        file = home / f"key-{hash_name}"
        if not file.exists():
            key = state(
                pair(WrappingSuite.RSA),
                Place(OWNER),
                datetime(2030, 1, 2, tzinfo=UTC),
                suite=SUITES[hash_name],
            )
            vault.register(key)
            management_files.write_new(file, management_files.encrypted(key, WORD, CHEAP))
        reading, writing = os.pipe()
        os.write(writing, WORD + b"\n")
        os.close(writing)
        opened.append(reading)
        return run("vault", *map(str, words), "--management-key", str(file), "--passphrase-fd", str(reading))

    yield asking
    for each in opened:
        os.close(each)


def wrapping_private(made: Pair) -> bytes:
    key = made.wrapping
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def wrapping_public(run: Run, home: Path, vault: FakeVault) -> bytes:
    """What `hsmd vault wrapping-key` gives to the other side."""
    file = home / "for-its-public-half"
    management_files.write_new(
        file, management_files.encrypted(management_key(WrappingSuite.RSA), WORD, CHEAP)
    )
    shown = run("vault", "wrapping-key", "--management-key", str(file))
    assert shown.code == 0, shown.err
    assert vault.asked == [], "the daemon does not say which key to wrap for"
    return shown.out.encode()


@pytest.fixture
def private() -> ec.EllipticCurvePrivateKey:
    """The key that is exchanged."""
    return ec.generate_private_key(ec.SECP256R1())


def pkcs8_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def public(home: Path, private: ec.EllipticCurvePrivateKey) -> Path:
    """A file with its public half."""
    path = home / "www.pub"
    path.write_bytes(public_of(private))
    return path


@pytest.mark.parametrize("name", list(HASHES))
def test_a_private_key_that_other_software_wrapped_is_deposited(
    ask: Ask,
    other: OpenSsl | Primitives,
    wrapping_public: bytes,
    home: Path,
    private: ec.EllipticCurvePrivateKey,
    public: Path,
    name: str,
) -> None:
    (home / "blob").write_bytes(other.wrap(wrapping_public, name, pkcs8_of(private)))
    ran = ask("put", "www", "--wrapped", "blob", "--suite", SUITES[name], "--public", public, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["public_key"].encode() == public.read_bytes()
    assert ask("get", "www", "--output", "out", "--der").code == 0
    assert (home / "out").read_bytes() == pkcs8_of(private)


def test_a_symmetric_key_that_other_software_wrapped_is_deposited(
    ask: Ask, other: OpenSsl | Primitives, wrapping_public: bytes, home: Path
) -> None:
    """The suite is that of the management key, if none is named."""
    secret = os.urandom(40)
    (home / "blob").write_bytes(other.wrap(wrapping_public, "sha256", secret))
    ran = ask("put", "session", "--wrapped", "blob", "--secret", "raw")
    assert ran.code == 0, ran.err
    assert ask("get", "session", "--output", "out").code == 0
    assert (home / "out").read_bytes() == secret


@pytest.mark.parametrize("name", list(HASHES))
def test_other_software_opens_a_deposit(
    vault: FakeVault,
    ask: Ask,
    other: OpenSsl | Primitives,
    home: Path,
    private: ec.EllipticCurvePrivateKey,
    name: str,
) -> None:
    (home / "www.der").write_bytes(pkcs8_of(private))
    assert ask("put", "www", "www.der", hash_name=name).code == 0
    got = ask("get", "www", "--bare", "blob", "--json", hash_name=name)
    assert got.code == 0, got.err
    assert json.loads(got.out)["suite"] == SUITES[name]
    assert stat.S_IMODE((home / "blob").stat().st_mode) == 0o600
    opened = other.unwrap(wrapping_private(pair(WrappingSuite.RSA)), name, (home / "blob").read_bytes())
    assert opened == pkcs8_of(private)
    secret = os.urandom(32)
    (home / "s").write_bytes(secret)
    assert ask("put", "session", "s", "--secret", "raw", hash_name=name).code == 0
    assert ask("get", "session", "--bare", "blob-2", hash_name=name).code == 0
    blob = (home / "blob-2").read_bytes()
    assert other.unwrap(wrapping_private(pair(WrappingSuite.RSA)), name, blob) == secret


DOES_NOT_OPEN = "the wrapped key does not open with your management key as rsa-oaep-sha256-aes256-kwp"


@pytest.mark.parametrize(
    "fault", ["another key", "another hash", "cut", "cut by a block", "empty", "altered", "symmetric"]
)
def test_a_blob_that_does_not_open_is_refused(
    vault: FakeVault,
    ask: Ask,
    wrapping_public: bytes,
    home: Path,
    private: ec.EllipticCurvePrivateKey,
    public: Path,
    fault: str,
) -> None:
    other, content = Primitives(home), pkcs8_of(private)
    key, name = wrapping_public, "sha256"
    if fault == "another key":
        stranger = rsa.generate_private_key(65_537, 3_072).public_key()
        key = stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if fault == "another hash":
        name = "sha1"
    if fault == "symmetric":
        content = os.urandom(32)
    blob = other.wrap(key, name, content)
    altered = blob[:-1] + bytes([blob[-1] ^ 1])
    blob = {"cut": blob[:-1], "cut by a block": blob[:-8], "empty": b"", "altered": altered}.get(fault, blob)
    (home / "blob").write_bytes(blob)
    suite = SUITES["sha256"]
    ran = ask("put", "www", "--wrapped", "blob", "--suite", suite, "--public", public)
    assert ran.code == 1 and DOES_NOT_OPEN in ran.err, ran.err
    assert "with which hash of OAEP (--suite), or copy it again" in ran.err
    assert not any(isinstance(each, VaultPut) for each in vault.asked)


def test_a_blob_of_another_key_than_was_named_is_refused(
    vault: FakeVault, ask: Ask, wrapping_public: bytes, home: Path, public: Path
) -> None:
    """Who sends a blob may send any key of theirs."""
    theirs = ec.generate_private_key(ec.SECP256R1())
    (home / "blob").write_bytes(Primitives(home).wrap(wrapping_public, "sha256", pkcs8_of(theirs)))
    ran = ask("put", "www", "--wrapped", "blob", "--public", public)
    assert ran.code == 1
    assert "belongs to another public key than the one that was named - nothing was deposited" in ran.err
    assert not any(isinstance(each, VaultPut) for each in vault.asked)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--wrapped needs the public half of the private key in it"),
        (["--secret", "hex"], "--wrapped needs the public half"),
        (["--secret", "raw", "--public", "www.pub"], "--wrapped needs the public half"),
        (
            ["--public", "www.pub", "--suite", "rsa"],
            "'rsa' is none of rsa-oaep-sha1-aes256-kwp, rsa-oaep-sha256-",
        ),
        (["--public", "missing"], "missing cannot be read"),
        (["--public", "www.pub", "www.pub"], "name one of FILE, --token with --label, and --wrapped"),
    ],
)
def test_wrong_options_of_put_are_named(
    vault: FakeVault, ask: Ask, home: Path, public: Path, options: list[str], words: str
) -> None:
    (home / "blob").write_bytes(b"x")
    ran = ask("put", "www", "--wrapped", "blob", *options)
    assert ran.code == 2 and words in ran.err, ran.err
    assert vault.asked == []
    ran = ask("put", "www", "www.pub", "--suite", "rsa-oaep-sha256-aes256-kwp")
    assert ran.code == 2 and "--suite and --public say what --wrapped is" in ran.err


def test_a_management_key_that_is_not_rsa_is_named_before_a_use_is_counted(
    vault: FakeVault, run: Run, home: Path, public: Path
) -> None:
    (home / "blob").write_bytes(bytes(500))
    for suite in (WrappingSuite.X25519, WrappingSuite.SYMMETRIC):
        key = state(generate_pair(suite), Place(OWNER), datetime.now(UTC))
        management_files.write_new(home / suite, management_files.encrypted(key, WORD, CHEAP))
        for words in (
            ["put", "www", "--wrapped", "blob", "--public", public],
            ["get", "www", "--bare", "out"],
        ):
            reading, writing = os.pipe()
            os.write(writing, WORD)
            os.close(writing)
            ran = run(
                "vault",
                *map(str, words),
                "--management-key",
                str(home / suite),
                "--passphrase-fd",
                str(reading),
            )
            os.close(reading)
            assert (
                ran.code == 1
                and f"your management key is of the suite {suite} - use one of the suite rsa" in ran.err
            )
    assert not any(isinstance(each, VaultGet) for each in vault.asked)
    ran = run("vault", "wrapping-key", "--management-key", str(home / "symmetric"))
    assert ran.code == 2 and "is symmetric, and has no public half" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--der"], "--bare writes the key as it is wrapped"),
        (["--output", "x"], "choose one of --output, --stdout, --into-token and --bare"),
    ],
)
def test_wrong_options_of_get_are_named(ask: Ask, vault: FakeVault, options: list[str], words: str) -> None:
    ran = ask("get", "www", "--bare", "out", *options)
    assert ran.code == 2 and words in ran.err
    assert vault.asked == []


def test_bare_overwrites_nothing(ask: Ask, vault: FakeVault, home: Path) -> None:
    (home / "taken").write_text("x")
    ran = ask("get", "www", "--bare", "taken")
    assert ran.code != 0 and "exists and is not overwritten" in ran.err
    assert vault.asked == [] and (home / "taken").read_text() == "x"
