"""The promises of `hsmd.daemon.worker.backend.Backend`, as functions that a test runs against each backend.

A backend of a real token needs a process of its own: `python -m tests.support.backend_contract PROMISE`, with the token's
settings on standard input, runs one promise there.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Protocol

import msgspec
import pkcs11

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.worker import key_objects
from hsmd.daemon.worker.backend import Backend, Key
from hsmd.daemon.worker.key_index import FIND_INTERVAL_S, KeyIndex
from hsmd.errors import PurposeMismatch, TokenFailure
from hsmd.pkcs11.errors import Fault, classify
from hsmd.pkcs11.search import finish
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings import TokenSettings
from hsmd.purposes import Purpose
from tests.support.fake_backend import FakeBackend
from tests.support.tls_bytes import CERTIFICATE_VERIFY

PURPOSES = frozenset({Purpose.TLS13_SERVER})
TLS13 = int(Purpose.TLS13_SERVER)
ECDSA = (TLS13, int(SignatureScheme.ECDSA_SHA256))


class Site(Protocol):
    """A backend and the hands to change its token; `now` is its clock."""

    backend: Backend
    now: float

    def make(self, key_type: KeyType = KeyType.P256, purposes: frozenset[Purpose] = PURPOSES) -> bytes:
        """Put a new key into the token, of which the backend is not told; return its digest."""

    def destroy(self, digest: bytes) -> None:
        """Destroy a key, of which the backend is not told."""

    def lose_session(self) -> None:
        """Make the session invalid."""


class FakeSite:
    """The fake."""

    def __init__(self) -> None:
        self.now = 100.0
        self.backend = FakeBackend(lambda: self.now)

    def make(self, key_type: KeyType = KeyType.P256, purposes: frozenset[Purpose] = PURPOSES) -> bytes:
        return self.backend.add(key_type, purposes)

    def destroy(self, digest: bytes) -> None:
        del self.backend.held[digest]

    def lose_session(self) -> None:
        self.backend.session_error = pkcs11.SessionHandleInvalid()


class TokenSite:
    """A token behind python-pkcs11, in this process."""

    def __init__(self, settings: TokenSettings) -> None:
        self.now = 100.0
        self._session: Any = open_token(settings).session
        self.backend = KeyIndex(self._session, verify="all", clock=lambda: self.now)

    def make(self, key_type: KeyType = KeyType.P256, purposes: frozenset[Purpose] = PURPOSES) -> bytes:
        return key_objects.generate(self._session, "key", key_type, purposes).half.digest

    def destroy(self, digest: bytes) -> None:
        assert key_objects.destroy(self._session, digest)

    def lose_session(self) -> None:
        self._session.close()


# --- the promises ---


def a_search_finds_new_keys_and_keeps_open_ones(site: Site) -> None:
    first = site.make()
    site.backend.scan()
    opened = site.backend.keys[first]
    opened.pace_s = 0.25
    second = site.make()
    assert set(site.backend.keys) == {first}, "only a search changes them"
    site.backend.scan()
    assert set(site.backend.keys) == {first, second}
    assert site.backend.keys[first] is opened
    assert (opened.digest, opened.pace_s) == (first, 0.25)


def a_search_in_slices_changes_keys_at_its_end(site: Site) -> None:
    first = site.make()
    site.backend.scan()
    opened, second = site.backend.keys[first], site.make()
    search = site.backend.scanning()
    next(search)
    assert set(site.backend.keys) == {first}
    assert opened.operations[ECDSA].run(CERTIFICATE_VERIFY), "keys can be used between slices"
    finish(search)
    assert set(site.backend.keys) == {first, second}
    assert site.backend.keys[first] is opened


def one_key_is_looked_up_or_forgotten_by_itself(site: Site) -> None:
    first = site.make()
    site.backend.scan()
    opened, second, third = site.backend.keys[first], site.make(), site.make()
    finish(site.backend.looking_up(second))
    assert set(site.backend.keys) == {first, second}
    assert site.backend.keys[second].operations[ECDSA].run(CERTIFICATE_VERIFY)
    finish(site.backend.looking_up(second))
    finish(site.backend.looking_up(bytes(32)))
    assert set(site.backend.keys) == {first, second}
    site.destroy(second)
    finish(site.backend.looking_up(second))
    assert set(site.backend.keys) == {first}, "what is no longer there is forgotten"
    site.backend.forget(first)
    assert set(site.backend.keys) == set()
    site.backend.scan()
    assert set(site.backend.keys) == {first, third}
    assert opened.digest == first


def a_key_that_is_found_during_a_search_stays(site: Site) -> None:
    first = site.make()
    search = site.backend.scanning()
    next(search)
    second = site.make()
    finish(site.backend.looking_up(second))
    finish(search)
    assert set(site.backend.keys) >= {first, second}


def a_key_that_was_made_elsewhere_is_found_at_once(site: Site) -> None:
    site.backend.scan()
    assert site.backend.find(bytes(32)) is None
    digest = site.make()
    found = site.backend.find(digest)
    assert found is not None
    assert site.backend.keys[digest] is found


def the_three_steps_make_every_signature_of_the_ceiling_and_no_other(site: Site) -> None:
    for key_type in (KeyType.P256, KeyType.RSA_2048):
        digest = site.make(key_type)
        site.backend.scan()
        key = site.backend.keys[digest]
        assert key.operations
        assert {purpose for purpose, _ in key.operations} == {TLS13}
        for operation in key.operations.values():
            prepared = operation.prepare(CERTIFICATE_VERIFY)
            assert operation.finish(prepared, operation.use(prepared))  # with verify="all" it is verified


def bytes_are_checked_against_the_purpose(site: Site) -> None:
    key = opened(site)
    key.check(*ECDSA, CERTIFICATE_VERIFY)
    refused = []
    for purpose, data in ((TLS13, b"other bytes"), (int(Purpose.SIGN_MESSAGE), CERTIFICATE_VERIFY)):
        try:
            key.check(purpose, ECDSA[1], data)
        except PurposeMismatch as error:
            refused.append(error)
    assert len(refused) >= 1
    assert (int(Purpose.SIGN_MESSAGE), ECDSA[1]) not in key.operations
    assert isinstance(key.refusal(int(Purpose.SIGN_MESSAGE), ECDSA[1], b""), PurposeMismatch)


def a_use_that_the_token_refuses_leaves_the_session_usable(site: Site) -> None:
    digest = site.make(KeyType.RSA_2048, frozenset({Purpose.SIGN_MESSAGE}))
    site.backend.scan()
    key = site.backend.keys[digest]
    operation = key.operations[int(Purpose.SIGN_MESSAGE), int(SignatureScheme.RSA_PKCS1_SHA256)]
    assert classify(failure(lambda: operation.use(b"x" * 300))) in (Fault.OPERATION, Fault.UNCLEAR)
    site.backend.ping()
    assert operation.run(b"a message")


def a_destroyed_key_is_told_from_a_broken_session(site: Site) -> None:
    digest, other = site.make(), site.make()
    site.backend.scan()
    operation = site.backend.keys[digest].operations[ECDSA]
    site.destroy(digest)
    assert classify(failure(lambda: operation.run(CERTIFICATE_VERIFY))) is Fault.KEY_GONE
    site.backend.ping()
    site.backend.scan()
    assert set(site.backend.keys) == {other}
    assert site.backend.keys[other].operations[ECDSA].run(CERTIFICATE_VERIFY)


def a_probe_succeeds_while_any_key_is_left(site: Site) -> None:
    site.backend.scan()
    site.backend.probe()  # a token without keys is no fault
    digests = [site.make(), site.make()]
    site.backend.scan()
    site.backend.probe()
    site.destroy(digests[1])
    site.backend.probe()
    site.destroy(digests[0])
    assert isinstance(failure(site.backend.probe), TokenFailure)


def a_lost_session_fails_every_call(site: Site) -> None:
    key = opened(site)
    site.lose_session()
    for call in (site.backend.ping, site.backend.probe, site.backend.scan):
        assert classify(failure(call)) is Fault.POISONED
    site.now += FIND_INTERVAL_S
    assert classify(failure(lambda: site.backend.find(bytes(32)))) is Fault.POISONED
    assert classify(failure(lambda: key.operations[ECDSA].run(CERTIFICATE_VERIFY))) is Fault.POISONED


PROMISES = {
    promise.__name__: promise
    for promise in (
        a_search_finds_new_keys_and_keeps_open_ones,
        a_search_in_slices_changes_keys_at_its_end,
        one_key_is_looked_up_or_forgotten_by_itself,
        a_key_that_is_found_during_a_search_stays,
        a_key_that_was_made_elsewhere_is_found_at_once,
        the_three_steps_make_every_signature_of_the_ceiling_and_no_other,
        bytes_are_checked_against_the_purpose,
        a_use_that_the_token_refuses_leaves_the_session_usable,
        a_destroyed_key_is_told_from_a_broken_session,
        a_probe_succeeds_while_any_key_is_left,
        a_lost_session_fails_every_call,
    )
}


def opened(site: Site) -> Key:
    digest = site.make()
    site.backend.scan()
    return site.backend.keys[digest]


def failure(call: Any) -> Exception:
    """The error of a call that must fail."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it succeeded")


def main() -> None:
    """Run one promise on the token whose settings are on standard input; exit status 0 if it is kept."""
    status = 1
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.read(), type=TokenSettings)
        PROMISES[sys.argv[1]](TokenSite(settings))
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)  # as a worker does: the module is not finalised


if __name__ == "__main__":
    main()
