"""The keys that a worker serves: resolved once from ceilings and private keys, then looked up by digest.

A key is resolved by its CKA_ID and its public half together (`key_pairs`). It is served only if one private key object matches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pkcs11 import (
    Attribute,
    AttributeSensitive,
    AttributeTypeInvalid,
    AttributeValueInvalid,
    FunctionFailed,
    GeneralError,
    KeyHandleInvalid,
    ObjectClass,
    ObjectHandleInvalid,
)

from hsmd.daemon.worker import ceilings
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_pairs import KeyPairs
from hsmd.daemon.worker.operations import OpenKey, open_key
from hsmd.errors import TokenFailure

HALF_WRITTEN = (
    AttributeTypeInvalid,
    AttributeSensitive,
    AttributeValueInvalid,
    FunctionFailed,
    GeneralError,
    ObjectHandleInvalid,
)
"""Errors of reading an object that was written incompletely or has just been destroyed; such objects are ignored."""
RESCAN_INTERVAL_S = 1.0
"""An unknown digest makes the worker search the token again, but not more often than this."""


class KeyIndex:
    """The keys of the token that have a ceiling: the `Backend` of a worker's loop."""

    def __init__(self, session: Any, *, verify: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._verify = verify
        self._clock = clock
        self._scanned_at = 0.0
        self._witness: Any = None
        self.keys: dict[bytes, OpenKey] = {}

    def scan(self) -> None:
        """Search the token. Unchanged keys stay open; one that is destroyed meanwhile is left out.

        Raises PKCS11Error, also if no key is left of those that were found, because then the token itself may have failed.
        """
        self._scanned_at = self._clock()
        privates = private_keys_by_id(self._session)
        keys: dict[bytes, OpenKey] = {}
        pairs = KeyPairs()
        witness = None
        gone: Exception | None = None
        for digest, ceiling in ceilings.read_all(self._session).items():
            try:
                known = self.keys.get(digest)
                proven = known.handle if known is not None and known.ceiling.value == ceiling.value else None
                private = pairs.private_key(ceiling, privates.get(ceiling.cka_id, []), proven).private
                if private is None:
                    continue
                keys[digest] = self._kept(digest, ceiling, private) or open_key(
                    private, ceiling, verify=self._verify
                )
                witness = private
            except (KeyHandleInvalid, ObjectHandleInvalid) as error:
                gone = error
        if gone is not None and not keys:
            raise gone
        self.keys = keys
        self._witness = witness

    def ping(self) -> None:
        """Use the session. Raises PKCS11Error if it is unusable."""
        self._session.generate_random(64)

    def probe(self) -> None:
        """Use slot, session and one key. Raises PKCS11Error, TokenFailure if all keys are gone."""
        self._session.token.slot.get_token()
        self.ping()
        self._read_one_key()

    def _read_one_key(self) -> None:
        if self._witness is None:
            return
        try:
            _ = self._witness[Attribute.ID]
        except (KeyHandleInvalid, ObjectHandleInvalid):  # this one may have been destroyed
            self.scan()
            if not self.keys:
                raise TokenFailure("none of its keys is left") from None

    def find(self, digest: bytes) -> OpenKey | None:
        """A key that was missing at the last search, or None. Raises PKCS11Error."""
        if self._clock() - self._scanned_at >= RESCAN_INTERVAL_S:
            self.scan()
        return self.keys.get(digest)

    def _kept(self, digest: bytes, ceiling: Ceiling, private: Any) -> OpenKey | None:
        known = self.keys.get(digest)
        if known is not None and known.handle == private.handle and known.ceiling.value == ceiling.value:
            return known
        return None


def private_keys_by_id(session: Any) -> dict[bytes, list[Any]]:
    """All private key objects of the token by CKA_ID.

    Incomplete ones are ignored. Raises PKCS11Error, also if none can be read, because then the token itself has failed.
    """
    by_id: dict[bytes, list[Any]] = {}
    unclear: Exception | None = None
    for private in list(
        session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.TOKEN: True})
    ):
        try:
            cka_id = private[Attribute.ID]
        except HALF_WRITTEN as error:
            unclear = error if isinstance(error, GeneralError | FunctionFailed) else unclear
            continue
        by_id.setdefault(cka_id, []).append(private)
    if unclear is not None and not by_id:
        raise unclear
    return by_id
