"""The file of a management key: its statement in clear text, and its private halves encrypted, or the place of them in a token.

    {"format": "hsmd-management-key/1", "statement": TEXT, "signature": BASE64, "succession": BASE64, "suite": NAME,
     "encrypted": {"cost": N, "salt": BASE64, "nonce": BASE64, "data": BASE64}}

or, in place of `encrypted`, `"token": {"settings": PATH, "wrapping_id": HEX, "signing_id": HEX}`. What is encrypted is
`{"signing": BASE64, "wrapping": BASE64}`: PKCS#8 in DER; of a hybrid wrapping key the seed of ML-KEM-768 (64 bytes) and the
X25519 key (32); of a symmetric one its 32 bytes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from hsmd.envelopes import header
from hsmd.envelopes.recipients import HybridPrivateKey, SymmetricKey
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
)
from hsmd.errors import BadRequest, EnvelopeInvalid, NotFound, ProofInvalid
from hsmd.holder import file_encryption
from hsmd.holder.file_encryption import Sealed
from hsmd.holder.management_keys import Pair, SoftwareManagementKey
from hsmd.system import atomic_file
from hsmd.system.input_files import read_file

FORMAT = "hsmd-management-key/1"
MAX_FILE_BYTES = 65_536
_ABOUT = FORMAT.encode()
_SEED_BYTES, _X25519_BYTES = 64, 32


class InToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the private halves are in a token."""

    settings: str
    """Path of the file that names the token."""
    wrapping_id: str
    """CKA_ID in hex."""
    signing_id: str


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The content of a file; it has either `encrypted` or `token`."""

    format: str
    statement: str
    signature: bytes
    succession: bytes = b""
    suite: str
    encrypted: Sealed | None = None
    token: InToken | None = None

    @property
    def signed(self) -> SignedManagementKey:
        """The statement with its signatures."""
        return SignedManagementKey(self.statement.encode(), self.signature, self.succession)

    @property
    def envelope_suite(self) -> header.Suite:
        """How envelopes are sealed to the key."""
        return header.Suite(self.suite)


class _Private(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is encrypted."""

    signing: bytes
    wrapping: bytes


def read(path: Path) -> tuple[KeyFile, ManagementKeyStatement]:
    """The file and its statement, whose own signature is checked. Raises NotFound, BadRequest or OSError."""
    try:
        content = read_file(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise NotFound(
            f"there is no management key in {path}; make one with `hsmd vault keygen`, or name the backup of yours "
            "with --management-key"
        ) from None
    try:
        file = msgspec.json.decode(content, type=KeyFile)
        if file.format != FORMAT or (file.encrypted is None) == (file.token is None):
            raise ValueError
        file.envelope_suite  # noqa: B018  raises for a name that is not known
        return file, file.signed.verify_own()
    except (msgspec.MsgspecError, ValueError, EnvelopeInvalid, ProofInvalid):
        raise BadRequest(
            f"{path} is not the file of a management key, or it was altered; use the backup of the key"
        ) from None


def open_key(file: KeyFile, passphrase: bytes) -> SoftwareManagementKey:
    """The management key of a file with encrypted private halves. Raises PassphraseRefused or BadRequest."""
    assert file.encrypted is not None, "of a file without `token`"
    content = file_encryption.decrypt(file.encrypted, passphrase, _ABOUT)
    try:
        private = msgspec.json.decode(content, type=_Private)
        pair = Pair(
            _signing_key(private.signing), _wrapping_key(private.wrapping, file.signed.verify_own().suite)
        )
    except (msgspec.MsgspecError, ValueError, TypeError, UnsupportedAlgorithm, EnvelopeInvalid):
        raise BadRequest("the private keys in the file are damaged; use the backup of the key") from None
    return SoftwareManagementKey(file.signed, file.envelope_suite, pair)


def encrypted(key: SoftwareManagementKey, passphrase: bytes, cost: int = 0) -> KeyFile:
    """The file of a management key that is in memory. `cost` of scrypt: 0 for that of new files."""
    private = _Private(_pkcs8(key.pair.signing), _wrapping_bytes(key.pair))
    sealed = file_encryption.encrypt(
        msgspec.json.encode(private), passphrase, _ABOUT, cost or file_encryption.COST
    )
    return _file(key.signed, key.suite, encrypted=sealed)


def in_token(signed: SignedManagementKey, suite: header.Suite, token: InToken) -> KeyFile:
    """The file of a management key that is in a token."""
    return _file(signed, suite, token=token)


def write_new(path: Path, file: KeyFile) -> None:
    """Write a file that is not there yet, for its owner only. Raises FileExistsError or OSError."""
    atomic_file.create(path, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")


def _file(
    signed: SignedManagementKey,
    suite: header.Suite,
    *,
    encrypted: Sealed | None = None,
    token: InToken | None = None,
) -> KeyFile:
    return KeyFile(
        format=FORMAT,
        statement=signed.text.decode(),
        signature=signed.signature,
        succession=signed.succession,
        suite=suite.value,
        encrypted=encrypted,
        token=token,
    )


def _pkcs8(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey,
) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _wrapping_bytes(pair: Pair) -> bytes:
    key = pair.wrapping
    if isinstance(key, SymmetricKey):
        return key.key
    if isinstance(key, HybridPrivateKey):
        return key.mlkem768.private_bytes_raw() + key.x25519.private_bytes_raw()
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey)
    return _pkcs8(key)


def _signing_key(
    content: bytes,
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    key = load_der_private_key(content, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise ValueError
    return key


def _wrapping_key(
    content: bytes, suite: WrappingSuite
) -> (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | HybridPrivateKey | SymmetricKey
):
    if suite is WrappingSuite.SYMMETRIC:
        return SymmetricKey(content)
    if suite is WrappingSuite.HYBRID:
        if len(content) != _SEED_BYTES + _X25519_BYTES:
            raise ValueError
        return HybridPrivateKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(content[:_SEED_BYTES]),
            x25519.X25519PrivateKey.from_private_bytes(content[_SEED_BYTES:]),
        )
    key = load_der_private_key(content, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey):
        raise ValueError
    return key
