"""Transaction keys in a token of the owner's: sealed there for a deposit, and kept there after an acquisition. Needs `token`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hsmd.algorithms import KeyType
from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.envelopes.vault.proofs import Proof, ProofKind
from hsmd.envelopes.vault.signing import Kind as Signed, to_be_signed
from hsmd.errors import BadRequest
from hsmd.holder import brought_keys
from hsmd.holder.acquisitions import Acquired
from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.management_token import TokenManagementKey
from hsmd.pkcs11 import own_keys, wrapping, wrapping_probe
from hsmd.pkcs11.own_keys import token_errors
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import OpenToken
from hsmd.protocol.messages import VaultChallenged


@dataclass(frozen=True, slots=True)
class PrivateKeyInToken:
    """A private key that is sealed inside its token."""

    token: OpenToken = field(repr=False)
    private: Any = field(repr=False)
    half: PublicHalf
    kind: Kind = Kind.PRIVATE_KEY
    only_opens: bool = False

    @property
    def spki(self) -> bytes:
        return self.half.spki

    @property
    def identity(self) -> str:
        return self.half.digest.hex()

    def seal(self, key: ManagementKey, about: dict[str, Value]) -> Envelope:
        if key.statement.suite is not WrappingSuite.RSA:
            raise BadRequest(
                "a token seals to RSA keys only, and your management key is of the suite "
                f"{key.statement.suite}; use one of the suite rsa, or deposit the key from a file"
            )
        recipient = PublicHalf.from_spki(key.statement.wrapping)
        if recipient is None:
            raise BadRequest(
                "the token takes RSA keys of 2048, 3072 and 4096 bits only; use a management key of 3072 bits"
            )
        with token_errors():
            found = wrapping_probe.probe(self.token.session)
            return wrapping.seal_private_key(
                self.token.session,
                self.private,
                self.half,
                recipient,
                key.suite,
                about,
                found,
                own_keys.prove,
            )

    def is_in(self, opened: bytes) -> bool:
        return brought_keys.from_pkcs8(opened).spki == self.spki

    def prove(self, text: bytes, challenged: VaultChallenged) -> Proof:
        with token_errors():
            signature = own_keys.sign(self.private, self.half, to_be_signed(Signed.POSSESSION, text))
        return Proof(ProofKind.SIGNATURE, signature)


def find(token: OpenToken, label: str) -> PrivateKeyInToken:
    """The extractable private key with this label. Raises NotFound, BadRequest or TokenFailure."""
    with token_errors():
        private, half = own_keys.find_extractable(token.session, label)
    return PrivateKeyInToken(token, private, half)


def generate(token: OpenToken, kind: str) -> PrivateKeyInToken:
    """A private key that exists in the token's session only. Raises BadRequest or TokenFailure."""
    try:
        key_type = KeyType(kind)
    except ValueError:
        raise BadRequest(
            f"a token does not make and wrap a key of the type {kind}; choose RSA or EC"
        ) from None
    with token_errors():
        _, private, half = own_keys.generate_for_deposit(token.session, key_type)
    return PrivateKeyInToken(token, private, half)


def check_free(token: OpenToken, label: str) -> None:
    """Raises Conflict if a private key of the token has this label, BadRequest if the token is write-protected."""
    if token.write_protected:
        raise BadRequest(
            "the token is write-protected, and no key can be stored in it; remove the protection"
        )
    with token_errors():
        own_keys.check_label(token.session, label)


def keep(acquired: Acquired, key: ManagementKey, token: OpenToken, label: str) -> tuple[bytes, bool]:
    """Keep an acquired private key in a token, to sign: its CKA_ID, and whether it was never in the memory of this process.

    That is so if the management key is an RSA key of the same token. Raises BadRequest, EnvelopeAltered, Conflict, TokenFailure.
    """
    if acquired.statement.kind is not Kind.PRIVATE_KEY:
        raise BadRequest("a symmetric key is not put into a token; take it out into a file")
    if isinstance(key, TokenManagementKey) and key.token is token:
        half = _expected(acquired)
        if half is not None:
            kept = key.keep_in_token(acquired.envelope, half, label)
            if kept is not None:
                return kept, True
    private = brought_keys.from_pkcs8(acquired.open(key)).private
    if not isinstance(private, own_keys.PrivateKey):
        raise BadRequest("tokens do not hold X25519 keys; take it out into a file")
    with token_errors():
        return own_keys.store_to_stay(token.session, private, label), False


def _expected(acquired: Acquired) -> PublicHalf | None:
    return PublicHalf.from_spki(acquired.spki) if acquired.spki else None
