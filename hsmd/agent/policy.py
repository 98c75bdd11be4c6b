"""The local policy: which users of this host may use which keys. Pure; the daemon decides again what the client may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Users = frozenset[int] | None
"""User ids; None means everybody who can open the socket."""
EVERYONE: Users = None
NOBODY: Users = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """Users by key name; a key without an entry of its own goes by `default`."""

    default: Users = NOBODY
    by_key: Mapping[str, Users] = field(default_factory=dict)

    def allow(self, uid: int, key_name: str) -> bool:
        """May this user use the key of this name?"""
        users = self.by_key.get(key_name, self.default)
        return users is None or uid in users

    def keys_for(self, uid: int, keys: Iterable[tuple[str, bytes]]) -> frozenset[bytes]:
        """The digests, among (name, digest) pairs, of the keys this user may use."""
        return frozenset(digest for name, digest in keys if self.allow(uid, name))
