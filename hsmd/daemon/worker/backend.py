"""What the worker's loop needs of a token: its open keys, searches for keys, and probes (docs/adr/0009).

`KeyIndex` provides it with python-pkcs11, and the fake of the loop's tests in software. `tests/support/backend_contract.py`
states the promises as tests, which run against both. Errors are python-pkcs11's: `hsmd.pkcs11.errors` says what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hsmd.daemon.worker.operations import Operation
from hsmd.errors import PurposeMismatch
from hsmd.pkcs11.search import Slices


class Key(Protocol):
    """A key that is ready for use."""

    pace_s: float
    """Estimate of how long the token takes for one use; the loop keeps it up to date."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the public key's SubjectPublicKeyInfo."""

    @property
    def operations(self) -> Mapping[tuple[int, int], Operation]:
        """By purpose and scheme: the uses within the key's ceiling, and no others."""

    @property
    def check(self) -> Callable[[int, int, bytes], None]:
        """Raises PurposeMismatch unless the bytes are what the purpose says; called before an operation is prepared."""

    def refusal(self, purpose: int, scheme: int, data: bytes) -> PurposeMismatch:
        """Why there is no operation for this purpose and scheme."""


class Backend(Protocol):
    """The keys of one token, on one session."""

    @property
    def keys(self) -> Mapping[bytes, Key]:
        """The open keys by digest, as the last search found them."""

    def scan(self) -> None:
        """Search the token for keys; a key that is unchanged stays the same object. Raises PKCS11Error."""

    def scanning(self) -> Slices[None]:
        """`scan` in slices, between which keys can be used. Raises PKCS11Error."""

    def looking_up(self, digest: bytes) -> Slices[None]:
        """Look for one key, in slices: afterwards it is among `keys` if the token serves it. Raises PKCS11Error."""

    def forget(self, digest: bytes) -> None:
        """Remove a key from `keys`: it was destroyed."""

    def find(self, digest: bytes) -> Key | None:
        """A key that is not among `keys`; looks for it at most once a second. Raises PKCS11Error."""

    def ping(self) -> None:
        """Use the session. Raises PKCS11Error if it is unusable."""

    def probe(self) -> None:
        """Use each part of the token that signing needs: slot, session, one key.

        Raises PKCS11Error, or TokenFailure if all keys are gone.
        """
