"""Keys that enter and leave the token in envelopes: opening one to an unwrapping key of the token, and making one.

What comes out is compared with the public key that the caller expects before it is stored. All objects on the way are
session objects, and a key that is to stay is marked while it is stored (`unfinished_keys`), so that neither an error nor a
killed worker leaves anything behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pkcs11

from hsmd.algorithms import KeyType
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.worker import ceilings, key_objects, private_keys, unfinished_keys
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_pairs import KeyPairs, prove_pair
from hsmd.envelopes import rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.rsa_aes_kwp import Parts
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, TokenFailure
from hsmd.pkcs11 import templates, wrapping, wrapping_probe
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.wrapping import Wrapping, temporary
from hsmd.purposes import KeyUse, Purpose, check_ceiling, use_of


@dataclass(frozen=True, slots=True)
class _Opened:
    """An envelope whose header is proven: its AES key in the token, and the wrapped private key."""

    aes_key: Any
    wrapped: bytes
    half: PublicHalf


class WrappedKeys:
    """The operations of one read-write session. Raise HsmdError and PKCS11Error."""

    def __init__(self, session: Any, found: Wrapping) -> None:
        self._session = session
        self._wrapping = found

    def unwrap(self, request: worker_messages.Unwrap, purposes: frozenset[Purpose], now: float) -> Ceiling:
        """Open an envelope and store its key under a ceiling; with `keep` false only show that it can be opened."""
        self._try_again()
        half = _half(request.public_key, "public_key")
        if request.keep:
            self._check_new(half, purposes, now)
        with self._opened(request.envelope, half) as opened:
            self._try_out(opened)
            if request.keep:
                return self._store(opened, request.name, purposes, now)
        return Ceiling(half, b"", frozenset(), b"")

    def wrap(self, request: worker_messages.Wrap) -> worker_messages.WrappedKey:
        """Make an envelope with a key that is generated for it."""
        self._try_again()
        key_type, suite = _key_type(request.key_type), _suite(request.suite)
        recipient = _half(request.recipient, "recipient")
        self._wrapping.need(suite)
        public, private = key_objects.generate_temporary(self._session, key_type)
        with temporary(public), temporary(private):
            half = key_objects.generated_half(public, key_type)
            envelope = self._seal(private, half, recipient, suite, request.about)
        if ceilings.of_key(self._session, recipient.digest) is not None:
            with self._opened(envelope.encode(), half) as opened:
                self._try_out(opened)
        return worker_messages.WrappedKey(
            half.digest.hex(), half.key_type.value, half.spki, envelope.encode()
        )

    def _seal(
        self, private: Any, half: PublicHalf, recipient: PublicHalf, suite: Suite, about: dict[str, Any]
    ) -> Envelope:
        try:
            return wrapping.seal_private_key(
                self._session, private, half, recipient, suite, about, self._wrapping, _prove
            )
        except pkcs11.KeyNotWrappable:
            raise BadRequest(
                f"key_type: the token does not wrap {half.key_type.value} keys; choose another type"
            ) from None

    def _try_again(self) -> None:
        """Try what the token can do once more if nothing was found: it may have failed for a moment."""
        if not self._wrapping.suites:
            self._wrapping = wrapping_probe.probe(self._session)

    # --- opening ---

    @contextmanager
    def _opened(self, encoded: bytes, half: PublicHalf) -> Iterator[_Opened]:
        envelope = Envelope.decode(encoded)
        header = envelope.header
        if header.kind is not Kind.PRIVATE_KEY or header.spki != half.digest:
            raise EnvelopeInvalid("public_key: the envelope says that it holds another key")
        recipient, unwrapping_key = self._unwrapping_key(header.recipient)
        parts: Parts = rsa_aes_kwp.split(envelope, recipient.public_key)
        with wrapping.content_key(
            self._session, unwrapping_key, header.suite, parts, self._wrapping
        ) as aes_key:
            yield _Opened(aes_key, parts.kwp, half)

    def _unwrapping_key(self, digest: bytes) -> tuple[PublicHalf, Any]:
        ceiling = ceilings.of_key(self._session, digest)
        if ceiling is None or use_of(ceiling.purposes) is not KeyUse.UNWRAP:
            raise BadRequest(
                f"envelope: it is sealed to {digest.hex()}, and the token has no such key for unwrap-key"
            )
        found = KeyPairs().private_key(ceiling, private_keys.with_id(self._session, ceiling.cka_id))
        if found.private is None:
            raise TokenFailure(f"the key {digest.hex()} cannot be used: {found.problem}")
        return ceiling.half, found.private

    def _unwrap(self, opened: _Opened, template: templates.Template, **stored: Any) -> Any:
        kwp = self._wrapping.kwp
        assert kwp is not None  # `content_key` needed it
        return wrapping.unwrap_private_key(
            self._session, opened.aes_key, kwp, opened.wrapped, opened.half, template, **stored
        )

    def _try_out(self, opened: _Opened) -> None:
        """Raises EnvelopeInvalid unless what is wrapped makes signatures that the expected public key verifies."""
        copy = self._unwrap(opened, templates.checking_copy())
        with temporary(copy), wrapping.content_refused(self._session):
            _prove(copy, opened.half)

    # --- keeping ---

    def _check_new(self, half: PublicHalf, purposes: frozenset[Purpose], now: float) -> None:
        check_ceiling(half.key_type, purposes)
        if use_of(purposes) is KeyUse.UNWRAP:
            raise BadRequest(
                "purposes: a key that was outside the token cannot have unwrap-key; generate one in the token"
            )
        unfinished_keys.clean(self._session, now)
        if ceilings.of_key(self._session, half.digest) is not None:
            raise Conflict(
                "this key is in the token already and keeps its purposes; `hsmd key list` shows it"
            )

    def _store(self, opened: _Opened, name: str, purposes: frozenset[Purpose], now: float) -> Ceiling:
        half, cka_id = opened.half, os.urandom(key_objects.CKA_ID_BYTES)
        with unfinished_keys.marked(self._session, half.digest, cka_id, now):
            template = templates.unwrapped_private_key(purposes)
            private = self._unwrap(opened, template, name=name, cka_id=cka_id, store=True)
            prove_pair(private, half)
            key_objects.write_public_key(self._session, name, half, cka_id, purposes)
            return ceilings.write(self._session, half, cka_id, purposes)


def _prove(private: Any, half: PublicHalf) -> None:
    try:
        proven = KeyPairs().proves(private, half)
    except TokenFailure:
        proven = False
    if not proven:
        raise EnvelopeInvalid(detail="what came out is not the private key of the expected public key")


def _half(spki: bytes, member: str) -> PublicHalf:
    half = PublicHalf.from_spki(spki)
    if half is None:
        raise BadRequest(f"{member}: must be a SubjectPublicKeyInfo in DER of a key type that hsmd serves")
    return half


def _suite(name: str) -> Suite:
    try:
        return Suite(name)
    except ValueError:
        raise BadRequest(
            f"suite: choose one of {', '.join(suite for suite in Suite if suite.is_rsa)}"
        ) from None


def _key_type(name: str) -> KeyType:
    try:
        return KeyType(name)
    except ValueError:
        raise BadRequest(f"key_type: choose one of {', '.join(kind.value for kind in KeyType)}") from None
