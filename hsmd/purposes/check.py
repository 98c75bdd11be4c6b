"""The check that a token worker makes before every use of a key: do the bytes fit the purpose?

One table per key, (purpose, scheme) -> rule, is built when the key is opened. Everything that is not in the table is
refused, so unknown purposes, unknown schemes and schemes that do not fit the key need no code of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hsmd.algorithms import SCHEMES, Family, KeyType, SignatureScheme, schemes_for
from hsmd.errors import PurposeMismatch
from hsmd.purposes.authority_check import AuthorityCheck, Beside
from hsmd.purposes.ceiling_constraints import ConstraintDocuments, authority_constraints, constraint_rules
from hsmd.purposes.checkpoint import check_checkpoint
from hsmd.purposes.names import Purpose, is_unwrapping
from hsmd.purposes.statement import check_statement
from hsmd.purposes.tls12_client import check_client_transcript
from hsmd.purposes.tls12_server import check_server_key_exchange
from hsmd.purposes.tls13 import allowed_in_tls13, certificate_verify_rule
from hsmd.purposes.x509 import check_request, check_self_signed

Rule = Callable[[bytes], None]

DECRYPTION_SCHEME = 0
"""Value of the scheme field of a decryption (docs/protocol.md, section 3)."""
MAX_CIPHERTEXT_BYTES = 1024
NOTE_SCHEMES = frozenset({SignatureScheme.ED25519, SignatureScheme.ECDSA_SHA256})
"""Schemes for which C2SP signed-note defines a signature type."""

_TLS13_SERVER = certificate_verify_rule("server")
_TLS13_CLIENT = certificate_verify_rule("client")


class PurposeCheck:
    """The check for one key."""

    __slots__ = ("_key_type", "_rules")

    def __init__(
        self,
        key_type: KeyType,
        spki: bytes,
        constraints: ConstraintDocuments | None = None,
        beside: Beside | None = None,
    ) -> None:
        """`spki` is the key's DER SubjectPublicKeyInfo (RFC 5280, section 4.1), `constraints` are those of its ceiling.

        Without `beside` an authority's key signs nothing.
        """
        self._key_type = key_type
        self._rules = _rules(key_type, spki)
        authority = authority_constraints(constraints or {})
        if authority is not None and beside is not None:
            signs = AuthorityCheck(authority, spki, beside).check
            for fitting in schemes_for(key_type):
                self._rules[int(Purpose.X509_AUTHORITY), int(fitting)] = partial(signs, fitting)
        for constrained, within in constraint_rules(constraints or {}).items():
            for (purpose, scheme), rule in self._rules.items():
                if purpose == constrained:
                    self._rules[purpose, scheme] = partial(_check_both, rule, within)

    def check(self, purpose: int, scheme: int, data: bytes) -> None:
        """Pass if `data` is exactly what `purpose` allows this key to sign with `scheme`, or to decrypt.

        `purpose` and `scheme` are codes as received. The caller must check that the purpose is within the key's ceiling.
        Raises PurposeMismatch, whose text says which rule was broken.
        """
        rule = self._rules.get((purpose, scheme))
        if rule is None:
            raise PurposeMismatch(_why_no_rule(self._key_type, purpose, scheme))
        rule(data)


def _rules(key_type: KeyType, spki: bytes) -> dict[tuple[int, int], Rule]:
    rules: dict[tuple[int, int], Rule] = {}
    for scheme in schemes_for(key_type):
        for purpose, rule in _signing_rules(key_type, scheme, spki).items():
            rules[int(purpose), int(scheme)] = rule
    if key_type.facts.family is Family.RSA:
        rules[int(Purpose.TLS12_RSA_PREMASTER), DECRYPTION_SCHEME] = _check_ciphertext
    return rules


def _signing_rules(key_type: KeyType, scheme: SignatureScheme, spki: bytes) -> dict[Purpose, Rule]:
    rules: dict[Purpose, Rule] = {
        Purpose.TLS12_SERVER: check_server_key_exchange,
        Purpose.TLS12_CLIENT: partial(check_client_transcript, spki, scheme),
        Purpose.SIGN_MESSAGE: _accept_any,
        Purpose.X509_REQUEST: partial(check_request, spki),
        Purpose.X509_SELF_SIGNED: partial(check_self_signed, spki, scheme),
    }
    if scheme in NOTE_SCHEMES:
        rules |= {Purpose.CHECKPOINT: check_checkpoint, Purpose.STATEMENT: check_statement}
    if allowed_in_tls13(key_type, scheme):
        rules |= {Purpose.TLS13_SERVER: _TLS13_SERVER, Purpose.TLS13_CLIENT: _TLS13_CLIENT}
    if scheme.facts.hash_bytes:
        rules[Purpose.SIGN_DIGEST] = partial(_check_digest, scheme)
    return rules


def _check_both(rule: Rule, within: Rule, data: bytes) -> None:
    """The rule of a purpose, then what the key's ceiling permits of it."""
    rule(data)
    within(data)


def _accept_any(data: bytes) -> None:
    """`sign-message`: the key's ceiling has no purpose whose format arbitrary bytes could imitate."""


def _check_digest(scheme: SignatureScheme, data: bytes) -> None:
    if len(data) != scheme.facts.hash_bytes:
        raise PurposeMismatch(
            f"not a {scheme.facts.hash} digest: {len(data)} bytes instead of {scheme.facts.hash_bytes}"
        )


def _check_ciphertext(data: bytes) -> None:
    """Only the length is checked: all malformed ciphertexts must get the same answer, which the worker makes."""
    if not 1 <= len(data) <= MAX_CIPHERTEXT_BYTES:
        raise PurposeMismatch(
            f"not an EncryptedPreMasterSecret: {len(data)} bytes, 1 to {MAX_CIPHERTEXT_BYTES} allowed"
        )


def _why_no_rule(key_type: KeyType, purpose: int, scheme: int) -> str:
    if purpose not in set(Purpose):
        return f"unknown purpose {purpose}"
    if scheme != DECRYPTION_SCHEME and scheme not in SCHEMES:
        return f"unknown signature scheme 0x{scheme:04x}"
    label = Purpose(purpose).label
    if is_unwrapping(Purpose(purpose)):
        return f"{label} is not a key operation: nothing is signed or decrypted for it"
    return f"signature scheme 0x{scheme:04x} does not suit {label} with a key of type {key_type.value}"
