"""Challenges that are open: each is answered once, within a minute, on its connection, for the request it was asked for."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from hsmd.daemon.front.access.identity import Identity
from hsmd.envelopes.vault.proofs import NONCE_BYTES, SECRET_BYTES
from hsmd.errors import Overloaded

LIFE_S = 60.0
MAX_OF_SESSION = 16
"""Challenges of one SSH connection that are open at a time ..."""
MAX_OF_CLIENT = 64
"""... of one client, over all its connections ..."""
MAX_OPEN = 4_096
"""... and of all clients: a few megabytes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Use:
    """The request that a challenge is for."""

    client: str
    binding: bytes = field(repr=False)
    """The session identifier of the SSH connection."""
    verb: str
    record: str = ""
    version: int = 0

    @classmethod
    def of(cls, identity: Identity, verb: str, record: str, version: int) -> Use:
        """The use by the client of a session."""
        return cls(identity.client, identity.binding, verb, record, version)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The secrets of a challenge that were sealed to keys; what was not asked for is empty."""

    recipient: bytes = b""
    """What names the wrapping key (`ManagementKeyStatement.recipient`)."""
    secret: bytes = field(default=b"", repr=False)
    key: bytes = b""
    """SHA-256 of the SubjectPublicKeyInfo of the key that is to be deposited."""
    possession: bytes = field(default=b"", repr=False)


NOTHING_SEALED = Sealed()


@dataclass(frozen=True, slots=True)
class Challenge:
    """A nonce that was given out; `expires_at` is a monotonic time."""

    nonce: bytes
    use: Use
    sealed: Sealed
    expires_at: float


class Challenges:
    """Belongs to the event loop. They are in the order in which they expire, so nothing has to be searched for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[bytes, Challenge] = {}
        self._of_session: Counter[bytes] = Counter()
        self._of_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self, use: Use) -> None:
        """Raises Overloaded if the session, the client, or all together have too many open ones."""
        self._forget_expired()
        if (
            self._of_session[use.binding] >= MAX_OF_SESSION
            or self._of_client[use.client] >= MAX_OF_CLIENT
            or len(self._open) >= MAX_OPEN
        ):
            oldest = next(iter(self._open.values()))
            raise Overloaded.retry_in(oldest.expires_at - self._clock())

    def issue(self, nonce: bytes, use: Use, sealed: Sealed = NOTHING_SEALED) -> Challenge:
        """Open a challenge. Raises Overloaded."""
        self.check_room(use)
        challenge = self._open[nonce] = Challenge(nonce, use, sealed, self._clock() + LIFE_S)
        self._of_session[use.binding] += 1
        self._of_client[use.client] += 1
        return challenge

    def take(self, nonce: bytes) -> Challenge | None:
        """The challenge of this nonce, which is closed by that; None if there is none, or its time is over."""
        self._forget_expired()
        challenge = self._open.get(nonce)
        if challenge is not None:
            self._close(challenge)
        return challenge

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._open:
            oldest = next(iter(self._open.values()))
            if oldest.expires_at > now:
                return
            self._close(oldest)

    def _close(self, challenge: Challenge) -> None:
        del self._open[challenge.nonce]
        _count_down(self._of_session, challenge.use.binding)
        _count_down(self._of_client, challenge.use.client)


def new_nonce() -> bytes:
    """Names a challenge, and is in no other one."""
    return secrets.token_bytes(NONCE_BYTES)


def new_secret() -> bytes:
    """What only the holder of a key learns, by opening an envelope."""
    return secrets.token_bytes(SECRET_BYTES)


def _count_down(counts: Counter[T], name: T) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
